/** Plans which transient tensors share memory, from when each is first and last used. */
import type { Dispatch } from './recorder.ts';
import type { Tensor } from './tensor.ts';

export interface ArenaPlan {
  slots: Map<Tensor, number>;
  slotBytes: number[];
}

/**
 * Best fit over whole buffers. WebGPU forbids one buffer to be read and written in a dispatch, even in
 * disjoint ranges, so a slot is a buffer of its own rather than a range of a larger one.
 * All programs share the slots: a program's transient content does not outlive it.
 */
export function planArena(programs: readonly (readonly Dispatch[])[], existing: readonly number[] = []): ArenaPlan {
  const slots = new Map<Tensor, number>();
  const slotBytes = [...existing];
  const shapes = new Map<string, number[]>();
  // The largest first, so that smaller programs of the same structure fall into the same slots.
  const bySize = [...programs].sort((a, b) => transientBytes(b) - transientBytes(a));
  for (const dispatches of bySize) {
    const lives = lifetimes(dispatches);
    const structure = lives.map(({ first, last }) => `${first}-${last}`).join(' ');
    const same = shapes.get(structure);
    if (same) {
      lives.forEach(({ tensor }, i) => {
        slots.set(tensor, same[i]);
        slotBytes[same[i]] = Math.max(slotBytes[same[i]], tensor.bytes);
      });
      continue;
    }
    const busyUntil = slotBytes.map(() => -1);
    const chosen: number[] = [];
    for (const { tensor, first, last } of lives) {
      let best = -1;
      for (let slot = 0; slot < slotBytes.length; slot++) {
        if (busyUntil[slot] >= first) continue;
        if (best < 0 || better(slotBytes[slot], slotBytes[best], tensor.bytes)) best = slot;
      }
      if (best < 0) best = slotBytes.push(0) - 1;
      slotBytes[best] = Math.max(slotBytes[best], tensor.bytes);
      busyUntil[best] = last;
      slots.set(tensor, best);
      chosen.push(best);
    }
    shapes.set(structure, chosen);
  }
  return { slots, slotBytes };
}

/** Is slot size `a` a better place for `need` bytes than `b`: the smallest that is enough, else the largest. */
function better(a: number, b: number, need: number): boolean {
  if (a >= need && b >= need) return a < b;
  return a > b;
}

function lifetimes(dispatches: readonly Dispatch[]): { tensor: Tensor; first: number; last: number }[] {
  const lives = new Map<Tensor, { tensor: Tensor; first: number; last: number }>();
  dispatches.forEach(({ tensors }, index) => {
    for (const tensor of tensors) {
      if (!tensor?.transient) continue;
      const life = lives.get(tensor);
      if (life) life.last = index;
      else lives.set(tensor, { tensor, first: index, last: index });
    }
  });
  return [...lives.values()].sort((a, b) => a.first - b.first || b.tensor.bytes - a.tensor.bytes);
}

function transientBytes(dispatches: readonly Dispatch[]): number {
  const seen = new Set<Tensor>();
  let sum = 0;
  for (const { tensors } of dispatches) {
    for (const tensor of tensors) {
      if (tensor?.transient && !seen.has(tensor)) {
        seen.add(tensor);
        sum += tensor.bytes;
      }
    }
  }
  return sum;
}
