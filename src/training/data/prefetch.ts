/** Preparing the batches of coming steps while one is trained on. */

/**
 * Calls `load` for a step and for the `ahead` steps after it, keeping what is under way, so that steps taken in order
 * find theirs ready. Any step may be asked for; the others are then forgotten.
 */
export class Prefetcher<T> {
  readonly load: (step: number) => Promise<T>;
  readonly ahead: number;
  readonly #pending = new Map<number, Promise<T>>();

  constructor(load: (step: number) => Promise<T>, ahead: number) {
    this.load = load;
    this.ahead = ahead;
  }

  at(step: number): Promise<T> {
    for (const known of this.#pending.keys()) {
      if (known < step || known > step + this.ahead) this.#pending.delete(known);
    }
    for (let s = step; s <= step + this.ahead; s++) {
      if (this.#pending.has(s)) continue;
      const promise = this.load(s);
      promise.catch(() => {}); // who asks for the step is told; if nobody does, it is no error
      this.#pending.set(s, promise);
    }
    return this.#pending.get(step)!;
  }
}
