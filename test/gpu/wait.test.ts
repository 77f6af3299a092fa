import { describe, expect, it } from 'vitest';
import { waitWithPauses } from '../../src/gpu/wait.ts';

/** Turns of an event loop that asks in every turn, as Dawn's binding does, until the promise is settled. */
async function turnsUntil(promise: Promise<unknown>): Promise<number> {
  let turns = 0;
  let open = true;
  const ask = () => {
    turns++;
    if (open) setImmediate(ask);
  };
  setImmediate(ask);
  await promise.finally(() => (open = false));
  return turns;
}

const sleep = (milliseconds: number) => new Promise<void>((resolve) => setTimeout(resolve, milliseconds));

describe('waiting with pauses', () => {
  it('asks about once a millisecond, not as often as a core can', async () => {
    const eager = await turnsUntil(sleep(100));
    const paused = await turnsUntil(waitWithPauses(sleep(100)));
    expect(paused).toBeGreaterThan(10);
    expect(paused).toBeLessThan(eager / 4);
  });

  it('ends soon after what it waits for, several waits at once, and passes values and errors on', async () => {
    const began = performance.now();
    const values = await Promise.all([5, 20, 40].map((ms) => waitWithPauses(sleep(ms).then(() => ms))));
    expect(values).toEqual([5, 20, 40]);
    expect(performance.now() - began).toBeLessThan(1000);
    await expect(waitWithPauses(Promise.reject(new Error('lost')))).rejects.toThrow('lost');
    // With nothing left to wait for the loop turns freely again.
    await sleep(5);
    const eager = await turnsUntil(sleep(50));
    expect(eager).toBeGreaterThan(100);
  });
});
