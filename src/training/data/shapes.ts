/** Pictures of plane forms: a data set that anyone can make, for tests and first steps. */
import { EmigmError } from '../../errors.ts';
import type { RgbImage } from '../../formats/rgb.ts';
import { CounterRandom, STREAMS } from '../../random.ts';

/** Whether a point, with the form's centre at 0 and its outermost point 1 away, lies in the form. */
type Inside = (x: number, y: number) => boolean;

type Point = readonly [number, number];

/** Corners on circles about the centre, the first on top; radii are taken in turn. */
function corners(count: number, ...radii: number[]): Point[] {
  return Array.from({ length: count }, (_, i) => {
    const angle = (2 * Math.PI * i) / count;
    const radius = radii[i % radii.length];
    return [radius * Math.sin(angle), -radius * Math.cos(angle)];
  });
}

/** Inside a polygon: a ray crosses its border an odd number of times. */
function polygon(points: readonly Point[]): Inside {
  return (x, y) => {
    let inside = false;
    for (let i = 0, j = points.length - 1; i < points.length; j = i++) {
      const [xi, yi] = points[i];
      const [xj, yj] = points[j];
      if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) inside = !inside;
    }
    return inside;
  };
}

const within = (x: number, y: number, radius: number) => x * x + y * y <= radius * radius;

/** The classes; sorted names, so that class numbers follow the list. */
const FORMS: Readonly<Record<string, Inside>> = {
  circle: (x, y) => within(x, y, 1),
  crescent: (x, y) => within(x, y, 1) && !within(x - 0.45, y, 0.8),
  cross: (x, y) => (Math.abs(x) <= 0.3 && Math.abs(y) <= 0.95) || (Math.abs(y) <= 0.3 && Math.abs(x) <= 0.95),
  ellipse: (x, y) => within(x, y / 0.5, 1),
  halfcircle: (x, y) => within(x, y - 0.38, 0.92) && y <= 0.38,
  hexagon: polygon(corners(6, 1)),
  ring: (x, y) => within(x, y, 1) && !within(x, y, 0.6),
  square: polygon(corners(4, 1)),
  star: polygon(corners(10, 1, 0.42)),
  triangle: polygon(corners(3, 1)),
};

/** Names of the forms; the place of a name is its class number. */
export const SHAPE_CLASSES: readonly string[] = Object.keys(FORMS).sort();

/** Points of a pixel's side at which the form is tested: 16 grades of a border. */
const SAMPLES = 4;

type Color = readonly [number, number, number];

/** Of the forms: red, orange, green, cyan, blue, purple. */
const HUES = [0, 0.09, 0.33, 0.5, 0.62, 0.8];

/** HSV, hue in turns, to bytes. */
function color(hue: number, saturation: number, value: number): Color {
  const channel = (n: number) => {
    const k = (n + 6 * (hue + 1)) % 6;
    return 255 * value * (1 - saturation * Math.max(0, Math.min(k, 4 - k, 1)));
  };
  return [channel(5), channel(3), channel(1)];
}

/**
 * The picture of a number: form `index mod 10`, and of it a random colour (shades of six), size, place and a slight turn,
 * on a light background. Plain enough that a small network learns it in minutes. A function of seed, index
 * and size alone; pictures of other sizes show the same.
 * @throws EmigmError 'input' for a size below 8
 */
export function drawShape(index: number, size: number, seed: number | bigint): RgbImage & { readonly label: number } {
  if (!Number.isInteger(size) || size < 8) throw new EmigmError('input', `shapes of ${size} pixels; give 8 or more`);
  const random = new CounterRandom(seed, STREAMS.data, 2);
  let drawn = 0;
  const next = (low: number, high: number) => low + (high - low) * random.uniform(index, drawn++);
  const label = index % SHAPE_CLASSES.length;
  const inside = FORMS[SHAPE_CLASSES[label]];

  const radius = next(0.28, 0.42); // in sides of the picture
  const free = (0.5 - radius) / 2;
  const [centerX, centerY] = [next(0.5 - free, 0.5 + free), next(0.5 - free, 0.5 + free)];
  const turn = next(-0.3, 0.3);
  const hue = Math.floor(next(0, HUES.length));
  const form = color(HUES[hue] + next(-0.015, 0.015), next(0.75, 0.95), next(0.65, 0.85));
  const shade = 255 * next(0.92, 1); // of the background

  const [cos, sin] = [Math.cos(turn) / radius, Math.sin(turn) / radius];
  // Pixels whose centres are farther from the form's than its outermost point and half a diagonal lie outside.
  const reach = (radius + Math.SQRT1_2 / size) ** 2;
  const rgb = new Uint8Array(size * size * 3);
  for (let py = 0; py < size; py++) {
    for (let px = 0; px < size; px++) {
      const [u, v] = [(px + 0.5) / size, (py + 0.5) / size];
      let covered = 0;
      if ((u - centerX) ** 2 + (v - centerY) ** 2 <= reach) {
        for (let s = 0; s < SAMPLES * SAMPLES; s++) {
          const x = (px + ((s % SAMPLES) + 0.5) / SAMPLES) / size - centerX;
          const y = (py + (Math.floor(s / SAMPLES) + 0.5) / SAMPLES) / size - centerY;
          if (inside(cos * x + sin * y, cos * y - sin * x)) covered++;
        }
      }
      const share = covered / SAMPLES ** 2;
      for (let c = 0; c < 3; c++) {
        rgb[3 * (py * size + px) + c] = Math.round(shade + share * (form[c] - shade));
      }
    }
  }
  return { width: size, height: size, rgb, label };
}
