/** Names and shapes of a state dict's tensors. */
import { EmigmError } from '../errors.ts';

export type Shapes = ReadonlyMap<string, readonly number[]>;

/** Numbers in all tensors together. */
export const countOf = (shapes: Shapes): number =>
  [...shapes.values()].reduce((sum, shape) => sum + shape.reduce((a, b) => a * b, 1), 0);

/**
 * Compares a file's tensors with those of its network.
 * @param isOptional tensors that may be missing; default: none
 * @throws EmigmError 'model' naming the first tensor that is missing, wrong in shape or no part of the network
 */
export function checkShapes(
  expected: Shapes,
  actual: Shapes,
  {
    file,
    network,
    isOptional = () => false,
  }: { file: string; network: string; isOptional?: (name: string) => boolean },
): void {
  const shown = (shape: readonly number[]) => `[${shape.join(', ')}]`;
  for (const [name, shape] of expected) {
    const found = actual.get(name);
    if (!found) {
      if (isOptional(name)) continue;
      throw new EmigmError('model', `${file}: tensor ${name} ${shown(shape)} is missing`);
    }
    if (shown(found) !== shown(shape)) {
      throw new EmigmError('model', `${file}: tensor ${name} has shape ${shown(found)}, ${shown(shape)} is needed`);
    }
  }
  for (const [name, shape] of actual) {
    if (!expected.has(name)) {
      throw new EmigmError(
        'model',
        `${file}: tensor ${JSON.stringify(name)} ${shown(shape)} is not part of ${network}`,
      );
    }
  }
}
