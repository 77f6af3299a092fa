/** How wide text in figures is, where there is no canvas to measure it. */

/** Advance widths of DejaVu Sans, the widest of the usual sans-serif fonts, in twentieths of the font size, rounded up. */
const GROUPS: readonly (readonly [number, string])[] = [
  [6, "'IJijl"],
  [7, ' ,./:;\\|'],
  [8, '()-[]ft'],
  [9, '!r'],
  [10, '"*_`'],
  [11, '?csz'],
  [12, 'FLkvxy'],
  [13, '$0123456789EPSTYabdeghnopqu{}'],
  [14, 'ABCKRVXZ'],
  [15, 'NU'],
  [16, '&DGHOQ'],
  [17, '#+<=>^w~'],
  [18, 'M'],
  [19, '%'],
  [20, '@Wm'],
];
const WIDTHS = new Map(GROUPS.flatMap(([width, letters]) => [...letters].map((letter) => [letter, width / 20])));
const OTHER = 0.65;

/**
 * Text in lines of at most so many pixels, broken after commas, and between words where there are none; a longer word
 * stays whole.
 */
export function wrapped(text: string, fontSize: number, width: number): string[] {
  const fits = (line: string) => textWidth(line, fontSize) <= width;
  const pieces = text.split(/(?<=,) /).flatMap((piece) => (fits(piece) ? [piece] : piece.split(' ')));
  const lines: string[] = [];
  for (const piece of pieces) {
    const longer = `${lines.at(-1)} ${piece}`;
    if (lines.length > 0 && fits(longer)) lines[lines.length - 1] = longer;
    else lines.push(piece);
  }
  return lines;
}

/** Pixels that a line of text takes at most, about. */
export const textWidth = (text: string, fontSize: number): number =>
  fontSize * [...text].reduce((sum, letter) => sum + (WIDTHS.get(letter) ?? OTHER), 0);
