/**
 * Waiting for the device without holding a core. While a promise of Dawn's is open, the binding for Node asks the
 * device in every turn of the event loop, without a pause: one core is busy with asking. To a GPU that does no harm,
 * but a CPU driver computes on these cores, and on two of them it loses one.
 */

/** Pauses are of this share of the time waited so far, so that no wait is longer by more than what a pause takes at least. */
const SHARE = 0.1;
/** The longest pause, milliseconds: all else in the event loop waits as long. */
const LONGEST = 1;

const cell = new Int32Array(new SharedArrayBuffer(4));
let waits = 0;
let began = 0;
let pausing = false;

/** Blocks this thread for a while in each turn of the event loop, until nothing is waited for. */
function pause(): void {
  pausing = waits > 0;
  if (!pausing) return;
  Atomics.wait(cell, 0, 0, Math.min(LONGEST, (performance.now() - began) * SHARE));
  setImmediate(pause);
}

/** `pending`, a promise of the device's; meanwhile the event loop turns at most about a thousand times a second. */
export async function waitWithPauses<T>(pending: Promise<T>): Promise<T> {
  waits++;
  began = performance.now();
  if (!pausing) {
    pausing = true;
    setImmediate(pause);
  }
  try {
    return await pending;
  } finally {
    waits--;
  }
}
