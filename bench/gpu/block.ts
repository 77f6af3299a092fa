/** `npx tsx bench/gpu/block.ts FILE`: how many dispatches a transformer block of eMIGM-B takes. */
import type { Device } from '../../src/gpu/device.ts';
import { openDevice } from '../../src/ops/open_device.ts';
import { Session } from '../../src/gpu/session.ts';
import { randomWeights } from '../../src/measurement/random_weights.ts';
import { presets } from '../../src/models/config.ts';
import { block, loadBlock } from '../../src/nn/block.ts';
import { defaultStored, WeightLoader } from '../../src/nn/weights.ts';
import { resultHead, writeRows } from '../result.ts';
import { runStoppable } from '../main.ts';

/** Rows of eMIGM-B at 256 px when all tokens are there. */
const TOKENS = 320;

export interface BlockRow {
  batch: number;
  dispatches: number;
  /** The ops in their order. */
  ops: string[];
}

/** Records a block as sampling does. */
export async function blockRows(device: Device): Promise<BlockRow[]> {
  const config = presets['b-256'];
  const { encoderWidth: width, encoderHeads: heads } = config;
  const loader = new WeightLoader(device, randomWeights(config), defaultStored(device));
  const session = new Session(device);
  try {
    const weights = await loadBlock(loader, 'encoder_blocks.0', width, heads);
    return [1, 8].map((batch) => {
      const x = device.tensor([batch * TOKENS, width], 'f32', 'x');
      const { dispatches } = session.record('block', (r) => block(r, x, weights, batch, TOKENS));
      x.destroy();
      return { batch, dispatches: dispatches.length, ops: dispatches.map(({ op }) => op) };
    });
  } finally {
    session.dispose();
    loader.destroy();
  }
}

if (process.argv[1] === import.meta.filename) {
  process.exitCode = await runStoppable('block', async ([out]) => {
    const device = await openDevice({});
    try {
      const rows = await blockRows(device);
      await writeRows(out, { ...resultHead(device, [out], 'npx tsx bench/gpu/block.ts'), rows });
    } finally {
      device.dispose();
    }
  });
}
