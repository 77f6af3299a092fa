/** Calls that change each element on its own are done together: one dispatch where several would follow each other. */
import { type Call, type Dispatch, type Recorder, sharesBuffer } from './recorder.ts';
import type { Tensor } from './tensor.ts';

/** What a call says of itself that changes each element on its own. */
export interface Chain {
  /** What its functions are applied to as it is; undefined where something is added first. */
  x: Tensor | undefined;
  y: Tensor;
  /** In the order in which they are applied. */
  functions: readonly string[];
  /** The call that does this one and `next`, or undefined where one kernel cannot. */
  join(next: Chain): Call | undefined;
}

/**
 * Joins calls that follow each other, where the second alone reads what the first writes. Only dispatches of one program
 * read its transient tensors.
 */
export function joinChains(recorder: Recorder): void {
  const { dispatches } = recorder;
  if (!dispatches.some(({ chain }, i) => chain && dispatches[i - 1]?.chain)) return;
  const uses = new Map<Tensor, number>();
  for (const { tensors } of recorder.dispatches) {
    for (const tensor of tensors) if (tensor) uses.set(tensor, (uses.get(tensor) ?? 0) + 1);
  }
  const joined = (first: Dispatch | undefined, second: Dispatch): Call | undefined => {
    if (!first?.chain || !second.chain || first.part !== second.part) return undefined;
    const { y } = first.chain;
    const between = second.chain.x === y && y.transient && uses.get(y) === 2;
    const inPlace = first.tensors.some((tensor) => tensor && sharesBuffer(tensor, second.chain!.y));
    return between && !inPlace ? first.chain.join(second.chain) : undefined;
  };
  for (const dispatch of recorder.dispatches.splice(0)) {
    const call = joined(recorder.dispatches.at(-1), dispatch);
    if (call) {
      recorder.dispatches.pop();
      recorder.within(dispatch.part, () => recorder.call(call));
    } else recorder.dispatches.push(dispatch);
  }
}
