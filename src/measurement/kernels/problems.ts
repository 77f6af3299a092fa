/** Which problems to measure: those of the models, a sweep over sizes, or what somebody asks for. */
import { EmigmError } from '../../errors.ts';
import type { Op, Problem } from '../../ops/op.ts';

export type Shapes = 'models' | 'sweep' | 'all';

/** Numbers in all inputs and outputs beyond which a sweep does not grow. */
const LARGEST = 2 ** 26;
/** What counts rows in the ops' problems, the first that a problem has. */
const ROWS = ['rows', 'tokens', 'pixels', 'size', 'batch', 'count'];
/** Follow the rows, where they may not exceed them. */
const WITH_ROWS: Readonly<Record<string, string>> = { gather_rows: 'count', scatter_rows: 'count' };

/** Of these shapes, each once. */
export function problemsOf(op: Op, shapes: Shapes): Problem[] {
  const all = [...(shapes === 'sweep' ? [] : op.problems.bench), ...(shapes === 'models' ? [] : sweep(op))];
  return [...new Map(all.map((problem) => [problemKey(problem), problem])).values()];
}

/** The same for the same problem, whatever the order of its fields. */
export const problemKey = (problem: Problem): string =>
  JSON.stringify(Object.entries(problem).sort(([a], [b]) => (a < b ? -1 : 1)));

/** `m 64 k 448 n 1344 bias` */
export function problemText(problem: Problem): string {
  return Object.entries(problem)
    .filter(([, value]) => value !== false)
    .map(([name, value]) => (value === true ? name : `${name} ${value}`))
    .join(' ');
}

/** From small to large: squares and heights for matmul, lengths for attention, rows for the rest. */
function sweep(op: Op): Problem[] {
  if (op.name === 'matmul') {
    const squares = [128, 256, 512, 1024, 2048, 4096].map((size) => ({ m: size, k: size, n: size, bias: true }));
    const heights = [1, 4, 16, 64, 256, 1024, 4096].map((m) => ({ m, k: 768, n: 3072, bias: true }));
    return [...squares, ...heights];
  }
  if (op.name === 'attention') {
    return [64, 128, 256, 512, 1024, 2048, 4096].map((length) => {
      return { batch: 1, heads: 12, headDim: 64, queries: length, keys: length, fused: true };
    });
  }
  const base = op.problems.bench.at(-1);
  const field = base && ROWS.find((name) => typeof base[name] === 'number');
  if (!base || !field) return [];
  const follows = WITH_ROWS[op.name];
  const times = (name: string, by: number) => Math.round((base[name] as number) * by);
  return [1 / 64, 1 / 16, 1 / 4, 1, 4, 16]
    .map((by) => ({ ...base, [field]: times(field, by), ...(follows && { [follows]: times(follows, by) }) }))
    .filter((problem) => (problem[field] as number) >= 1 && (!follows || (problem[follows] as number) >= 1))
    .filter((problem) => elements(op, problem) <= LARGEST);
}

function elements(op: Op, problem: Problem): number {
  const shapes = [
    ...Object.values(op.inputs(problem)).map(({ shape }) => shape),
    ...Object.values(op.outputs(problem)),
  ];
  return shapes.reduce((sum, shape) => sum + shape.reduce((a, b) => a * b, 1), 0);
}

/** Fields that the op's problems have, and the values seen there. */
export function fieldsOf(op: Op): Map<string, Set<Problem[string]>> {
  const fields = new Map<string, Set<Problem[string]>>();
  for (const problem of [...op.problems.bench, ...op.problems.test]) {
    for (const [name, value] of Object.entries(problem)) {
      if (!fields.has(name)) fields.set(name, new Set());
      fields.get(name)!.add(value);
    }
  }
  return fields;
}

/** Strings that a problem may have though none of the op's own does, being the defaults. */
const DEFAULTS = ['f32', 'f16', 'none'];

/**
 * Every combination of the values asked for (`{ m: '64,320', bias: 'true' }`); other fields as in the op's first problem.
 * @throws EmigmError 'input' naming the field that the op lacks or the value that it cannot have
 */
export function askedProblems(op: Op, asked: Readonly<Record<string, string>>): Problem[] {
  const fields = fieldsOf(op);
  const unknown = Object.keys(asked).find((name) => !fields.has(name));
  if (unknown)
    throw new EmigmError('input', `${op.name} has no size ${unknown}; it has ${[...fields.keys()].join(', ')}`);
  let problems: Problem[] = [op.problems.bench[0]];
  for (const [name, text] of Object.entries(asked)) {
    const values = text.split(',').map((one) => parsedValue(op, name, one.trim(), fields.get(name)!));
    problems = problems.flatMap((problem) => values.map((value) => ({ ...problem, [name]: value })));
  }
  // Fused q, k, v are of one length.
  if ('queries' in asked && !('keys' in asked)) {
    problems = problems.map((p) => (p.fused ? { ...p, keys: p.queries } : p));
  }
  return problems;
}

function parsedValue(op: Op, name: string, text: string, seen: ReadonlySet<Problem[string]>): Problem[string] {
  const [example] = seen;
  const wrong = (what: string) => new EmigmError('input', `${op.name}: ${name} must be ${what}, not "${text}"`);
  if (typeof example === 'number') {
    const value = Number(text);
    if (text === '' || !(value > 0)) throw wrong('a number above zero');
    if ([...seen].every(Number.isInteger) && !Number.isSafeInteger(value)) throw wrong('a whole number');
    return value;
  }
  if (typeof example === 'boolean') {
    if (text !== 'true' && text !== 'false') throw wrong('true or false');
    return text === 'true';
  }
  const allowed = new Set([...seen, ...(seen.has('f16') || seen.has('gelu') ? DEFAULTS : [])]);
  if (!allowed.has(text)) throw wrong(`one of ${[...allowed].join(', ')}`);
  return text;
}
