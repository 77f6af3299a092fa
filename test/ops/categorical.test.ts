/** Codes drawn on the device: their distribution, their independence of the batch, and a run that reveals by confidence. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { EmigmError } from '../../src/errors.ts';
import { Device } from '../../src/gpu/device.ts';
import { Session } from '../../src/gpu/session.ts';
import { annealedTemperature, axisPresets } from '../../src/masking/axes.ts';
import { revealCounts } from '../../src/masking/reveal.ts';
import { type CodeSampling, checkCodeFilter, sampleCodes } from '../../src/ops/categorical.ts';
import { codeRows, positionList, revealConfident, slotList } from '../../src/ops/code_lists.ts';
import { gatherRows, MASKED } from '../../src/ops/tokens.ts';
import { expectFits } from '../helpers/chi_square.ts';
import { random } from '../helpers/numbers.ts';

let device: Device;
beforeAll(async () => {
  device = await Device.open();
});
afterAll(() => device?.dispose());

/** Codes of these tokens, each with its row of logits. */
async function draw(
  rows: readonly (readonly number[])[],
  positions: readonly number[],
  images: readonly number[],
  sampling: Omit<CodeSampling, 'seed' | 'step'> & { seed?: number; step?: number },
  seqLen = 8,
): Promise<{ codes: Uint32Array; confidence: Float32Array }> {
  const session = new Session(device);
  const codes = rows[0].length;
  const tensors = {
    logits: device.tensor([rows.length, codes], 'f32', 'logits', rows.flat()),
    positions: device.tensor([rows.length], 'u32', 'positions', positions),
    images: device.tensor([images.length], 'u32', 'images', images),
    sampled: device.tensor([rows.length], 'u32', 'sampled'),
    confidence: device.tensor([rows.length], 'f32', 'confidence'),
  };
  const list = { tensor: tensors.positions, offset: 0 };
  const at = { positions: list, images: tensors.images, seqLen, rows: rows.length };
  const program = session.record('draw', (r) => {
    sampleCodes(r, tensors.logits, codes, at, { seed: 1, step: 0, ...sampling }, tensors);
  });
  await session.prepare();
  session.run(program);
  const result = {
    codes: await device.readIntegers(tensors.sampled),
    confidence: await device.read(tensors.confidence),
  };
  session.dispose();
  for (const tensor of Object.values(tensors)) tensor.destroy();
  return result;
}

const identity = (n: number) => Array.from({ length: n }, (_, i) => i);
const softmax = (logits: readonly number[], temperature: number, keep = (_: number) => true) => {
  const masses = logits.map((x) => (keep(x) ? Math.exp(x / temperature) : 0));
  const total = masses.reduce((a, b) => a + b, 0);
  return masses.map((mass) => mass / total);
};

describe('sampled codes', () => {
  const logits = [1, -0.5, 2, 0, -3, 1.5, 0.25];
  const count = 8192;
  // The seed is fixed: no test fails now and then.
  const settings: [string, Omit<CodeSampling, 'seed' | 'step'>, (x: number) => boolean][] = [
    ['temperature 1', {}, () => true],
    ['temperature 2', { temperature: 2 }, () => true],
    ['top-k 3', { topK: 3 }, (x) => x >= 1],
    // Probabilities from the largest: .42 .26 .16 .07 ...: the fourth reaches 0.86.
    ['top-p 0.86', { topP: 0.86 }, (x) => x >= 0.25],
    ['top-k 3 and top-p 0.8', { topK: 3, topP: 0.8 }, (x) => x >= 1.5],
  ];
  it.each(settings)('%s: as softmax has it (chi-square)', async (_, sampling, keep) => {
    const rows = new Array(count).fill(logits);
    const { codes, confidence } = await draw(rows, identity(count), identity(count / 8), sampling);
    const probabilities = softmax(logits, sampling.temperature ?? 1, keep);
    const seen = new Array(logits.length).fill(0);
    for (const code of codes) seen[code]++;
    for (const [i, p] of probabilities.entries()) if (p === 0) expect(seen[i]).toBe(0);
    expectFits(
      seen,
      probabilities.map((p) => p * count),
      'codes',
    );
    const whole = softmax(logits, 1);
    for (const [i, code] of codes.entries()) {
      expect(Math.abs(confidence[i] - Math.log(whole[code]))).toBeLessThan(1e-5);
    }
  });

  it('noise of the confidence is standard Gumbel (chi-square), apart from that of the code', async () => {
    const rows = new Array(count).fill([0, 0]);
    const { codes, confidence } = await draw(rows, identity(count), identity(count / 8), { choiceTemperature: 2 });
    const seen = new Array(20).fill(0);
    const both = [0, 0];
    confidence.forEach((value, i) => {
      // The distribution function of a Gumbel number is uniform on its own.
      const share = Math.exp(-Math.exp(-(value - Math.log(0.5)) / 2));
      seen[Math.min(19, Math.floor(20 * share))]++;
      if (share < 0.5) both[codes[i]]++;
    });
    expectFits(seen, new Array(20).fill(count / 20), 'noise');
    expectFits(both, new Array(2).fill((both[0] + both[1]) / 2), 'codes of low confidence');
  });

  it('a token gets the same code and confidence in whatever batch and place; another seed or step others', async () => {
    const rng = random();
    const codes = 40;
    const rows = identity(24).map(() => [...rng.normal(codes)]);
    const sampling = { choiceTemperature: 1.5, topP: 0.97 };
    const together = await draw(rows, identity(24), [7, 1000, 2], sampling);
    const order = identity(24).sort(() => rng.next() - 0.5);
    const images = [2, 5, 7, 1000];
    const moved = (token: number) => images.indexOf([7, 1000, 2][Math.floor(token / 8)]) * 8 + (token % 8);
    const apart = await draw(
      order.map((i) => rows[i]),
      order.map(moved),
      images,
      sampling,
    );
    order.forEach((from, to) => {
      expect(apart.codes[to]).toBe(together.codes[from]);
      expect(apart.confidence[to]).toBe(together.confidence[from]);
    });
    for (const other of [{ seed: 2 }, { step: 1 }]) {
      const { confidence } = await draw(rows, identity(24), [7, 1000, 2], { ...sampling, ...other });
      expect([...confidence]).not.toEqual([...together.confidence]);
    }
  });

  it('temperature 0 takes the first of the largest logits', async () => {
    const { codes } = await draw([[1, 3, 3, 0, 3]], [0], [0], { temperature: 0, topP: 0.1 });
    expect([...codes]).toEqual([1]);
  });

  it.each([
    [{ topK: -1 }, /top-k must be a positive integer/],
    [{ topK: 1.5 }, /top-k/],
    [{ topP: 0 }, /top-p must be a share above 0/],
    [{ topP: 1.2 }, /top-p/],
    [{ temperature: -1 }, /temperature must be a number from 0/],
    [{ temperature: Number.NaN }, /temperature/],
  ])('%j is refused', (filter, message) => {
    expect(() => checkCodeFilter(filter)).toThrow(EmigmError);
    expect(() => checkCodeFilter(filter)).toThrow(message);
  });
});

describe('a run that reveals by confidence', () => {
  it.each([1, 4, 7, 40])('%i steps: every token once, as a float64 run on the host reveals them', async (steps) => {
    const rng = random();
    const [batch, seqLen, vocabulary, width] = [3, 20, 16, 4];
    const counts = revealCounts({ seed: 0, seqLen, steps, schedule: 'cosine', counts: axisPresets.maskgit.counts });
    // A network in small: the logits of a token are a fixed row of numbers.
    const table = rng.normal(batch * seqLen * vocabulary);
    const tensors = {
      logits: device.tensor([batch * seqLen, vocabulary], 'f32', 'logits', table),
      codes: device.tensor([batch, seqLen], 'u32', 'codes', new Uint32Array(batch * seqLen).fill(MASKED)),
      images: device.tensor([batch], 'u32', 'images', [4, 1, 9]),
      positions: device.tensor([batch * seqLen], 'u32', 'positions'),
      sampled: device.tensor([batch * seqLen], 'u32', 'sampled'),
      confidence: device.tensor([batch * seqLen], 'f32', 'confidence'),
      embeddings: device.tensor([vocabulary + 1, width], 'f32', 'embeddings', rng.normal((vocabulary + 1) * width)),
      looked: device.tensor([batch * seqLen, width], 'f32', 'looked up'),
      slots: device.tensor([batch * seqLen], 'u32', 'slots'),
      all: device.tensor([batch * seqLen], 'u32', 'all tokens', identity(batch * seqLen)),
    };
    const session = new Session(device);
    const list = { tensor: tensors.positions, offset: 0 };
    const shown: { chosen: ReturnType<typeof device.tensor>; masked: number; count: number }[] = [];
    let masked = seqLen;
    const programs = counts.map((count, step) => {
      const [before, chosen] = [masked, device.tensor([batch, count], 'u32', 'chosen')];
      shown.push({ chosen, masked: before, count });
      masked -= count;
      return session.record(`step ${step}`, (r) => {
        positionList(r, tensors.codes, list, { batch, seqLen, of: 'masked', count: before });
        const rows = batch * before;
        const logits = gatherRows(r, tensors.logits, list, rows, vocabulary);
        const at = { positions: list, images: tensors.images, seqLen, rows };
        const choiceTemperature = annealedTemperature(4.5, step, counts.length);
        const drawn = sampleCodes(r, logits, vocabulary, at, { seed: 3, step, choiceTemperature }, tensors);
        revealConfident(r, drawn, list, tensors.codes, { batch, masked: before, count }, chosen);
        const index = codeRows(r, tensors.codes, { tensor: tensors.all, offset: 0 }, batch * seqLen, vocabulary);
        gatherRows(r, tensors.embeddings, { tensor: index, offset: 0 }, batch * seqLen, width, { out: tensors.looked });
        slotList(r, tensors.codes, { tensor: tensors.slots, offset: 0 }, { batch, seqLen, shift: 2 });
      });
    });
    await session.prepare();
    let known: Uint32Array = new Uint32Array(batch * seqLen).fill(MASKED);
    const times = new Uint32Array(batch * seqLen);
    for (const [step, program] of programs.entries()) {
      session.run(program);
      const codes = await device.readIntegers(tensors.codes);
      const sampled = await device.readIntegers(tensors.sampled);
      const confidence = await device.read(tensors.confidence);
      const chosen = await device.readIntegers(shown[step].chosen);
      // Candidates in order of position; the most confident of each image are revealed and no others.
      const expected = known.slice();
      const wanted: number[] = [];
      const candidates = identity(batch * seqLen).filter((token) => known[token] === MASKED);
      for (let image = 0; image < batch; image++) {
        const own = candidates.flatMap((token, row) => (Math.floor(token / seqLen) === image ? [{ token, row }] : []));
        own.sort((a, b) => confidence[b.row] - confidence[a.row] || a.row - b.row);
        for (const { token, row } of own.slice(0, shown[step].count)) {
          expected[token] = sampled[row];
          wanted.push(token);
          times[token]++;
        }
      }
      expect([...codes]).toEqual([...expected]);
      expect([...chosen]).toEqual(wanted);
      const looked = await device.read(tensors.looked);
      const rows = await device.read(tensors.embeddings);
      const slots = await device.readIntegers(tensors.slots);
      let visible = 0;
      codes.forEach((code, token) => {
        const row = code === MASKED ? vocabulary : code;
        expect([...looked.slice(token * width, (token + 1) * width)]).toEqual([
          ...rows.slice(row * width, (row + 1) * width),
        ]);
        if (token % seqLen === 0) visible = 0;
        expect(slots[token]).toBe(code === MASKED ? MASKED : 2 + visible++);
      });
      known = codes;
    }
    expect([...times]).toEqual(new Array(batch * seqLen).fill(1));
    expect(Math.max(...known)).toBeLessThan(vocabulary);
    session.dispose();
  });

  it('exactly as many are revealed when confidences are NaN, infinite or equal', async () => {
    const values = [Number.NaN, 1, Number.NEGATIVE_INFINITY, Number.NaN, 1, Number.POSITIVE_INFINITY, 0, -0];
    const session = new Session(device);
    const confidence = device.tensor([8], 'f32', 'confidence', values);
    const sampled = device.tensor([8], 'u32', 'sampled', identity(8));
    const positions = { tensor: device.tensor([8], 'u32', 'positions', identity(8)), offset: 0 };
    for (let count = 1; count <= 8; count++) {
      const codes = device.tensor([8], 'u32', 'codes', new Uint32Array(8).fill(MASKED));
      const program = session.record('reveal', (r) => {
        revealConfident(r, { sampled, confidence }, positions, codes, { batch: 1, masked: 8, count });
      });
      await session.prepare();
      session.run(program);
      const revealed = (await device.readIntegers(codes)).filter((code) => code !== MASKED);
      expect(revealed.length).toBe(count);
    }
    session.dispose();
  });
});
