/** Looking into a network while a pass is recorded, for tests and for people who compare implementations. */
import type { Tensor } from '../gpu/tensor.ts';

/** Called with each module's output, channels last, under its official name, while a pass is recorded. */
export type Observer = (module: string, output: Tensor) => void;

/** Tells the observer of a module's output, and passes it on. */
export type Seen = (module: string, output: Tensor) => Tensor;

/** Modules of one part of a network, `encoder` or `decoder`, named within it. */
export function observer(observe: Observer | undefined, part: string): Seen {
  return (module, output) => {
    observe?.(`${part}.${module}`, output);
    return output;
  };
}
