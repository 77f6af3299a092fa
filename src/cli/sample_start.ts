/** How long it takes from the start of the process to the first finished image, and where that time goes. */

/** Seconds; the parts add up to the total. `seconds.firstImage` in sample.json. */
export interface FirstImage {
  /** From the start of the process until the first image is finished and, if it gets a file of its own, written. */
  total: number;
  /** Node itself and the program's modules. */
  modules: number;
  /** Opening the adapter: its driver, Dawn, the device. */
  device: number;
  /** Reading weights (a tokenizer's too) and putting them on the device. */
  weights: number;
  /** Recording the first batch, and the wait for its kernels; they are compiled while weights load. */
  kernels: number;
  /** The whole first batch. Drivers that compile at the first dispatch, as lavapipe does, do so here. */
  drawing: number;
}

/** Takes the times of one command; make it when the command begins. */
export class StartClock {
  private readonly began = performance.now();
  private recorded = 0;
  private device = 0;
  private ready = this.began;
  private finished: FirstImage | undefined;

  /** Does what prepares kernels while weights load, which is not counted as loading. */
  recording(run: () => void): void {
    const from = performance.now();
    run();
    this.recorded += performance.now() - from;
  }

  /** All weights are on the device, whose adapter took `device` seconds to open. */
  loaded(device: number): void {
    this.device = device * 1000;
    this.ready = performance.now();
  }

  /** An image is finished; `prepare`: seconds that batches took to be recorded and compiled. The first call counts. */
  image(prepare: number): void {
    if (this.finished) return;
    // performance.now() counts from the start of the process.
    const now = performance.now();
    const kernels = this.recorded + prepare * 1000;
    const weights = this.ready - this.began - this.device - this.recorded;
    const drawing = now - this.ready - prepare * 1000;
    const parts = { modules: this.began, device: this.device, weights, kernels, drawing };
    const seconds = Object.entries(parts).map(([name, value]) => [name, value / 1000]);
    this.finished = { total: now / 1000, ...(Object.fromEntries(seconds) as Omit<FirstImage, 'total'>) };
  }

  /** undefined before there is an image */
  get first(): FirstImage | undefined {
    return this.finished;
  }
}

/** `first image 1.02 s after the start (modules 0.25, device 0.05, ...)` */
export function startText({ total, ...parts }: FirstImage): string {
  const listed = Object.entries(parts).map(([name, value]) => `${name} ${value.toFixed(2)}`);
  return `first image ${total.toFixed(2)} s after the start (${listed.join(', ')})`;
}
