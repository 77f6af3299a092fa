/** A name from a file as it may stand in an error: quoted, control characters escaped, not too long. */
export function quote(name: unknown): string {
  // A list or dict is not spelt out: it may be nested beyond any stack.
  const text = typeof name === 'object' && name !== null ? 'an object' : String(name);
  return JSON.stringify(text.length > 120 ? `${text.slice(0, 117)}...` : text);
}
