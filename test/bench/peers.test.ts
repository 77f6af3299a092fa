/** The work that peers are measured by: this engine's recording of it against float64, and how results are compared. */
import { describe, expect, it } from 'vitest';
import { openEmigm } from '../../bench/peers/emigm.ts';
import { Float64Ops } from '../../bench/peers/float64.ts';
import { onnxModel } from '../../bench/peers/onnxruntime.ts';
import {
  bestPeers,
  type PeerResult,
  type PeerRow,
  residentTable,
  resultTable,
  withRatios,
} from '../../bench/peers/result.ts';
import {
  attentionWork,
  blockWork,
  matmulWork,
  normsWork,
  tinyWork,
  type Workload,
} from '../../bench/peers/workloads.ts';

const small: Workload[] = [
  matmulWork(3, 8, 12),
  attentionWork(7, 24, 3),
  blockWork(5),
  tinyWork(4, 64),
  normsWork(3, 64),
];

describe('the engine does the described work', async () => {
  const engine = await openEmigm(undefined, 'f32');
  it.each(small)('$name', async (work) => {
    const prepared = await engine.prepare(work);
    const inputs = work.inputs();
    const expected = work.build(new Float64Ops(inputs, await work.parameters())).data;
    // Twice: what a run leaves behind, or runs whose results nobody reads, must not change the next.
    for (let i = 0; i < 2; i++) {
      if (i > 0) expect(await prepared.resident!(2)).toBe(work.kind === 'matmul' || work.kind === 'attention' ? 32 : 2);
      const output = await prepared.run(inputs);
      const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      expect(output.length).toBe(expected.length);
      for (const [at, value] of output.entries()) expect(Math.abs(value - expected[at]) / largest).toBeLessThan(2e-5);
    }
    await prepared.release();
  });
});

it('ONNX: a matmul, byte for byte', async () => {
  const model = Buffer.from(await onnxModel(matmulWork(1, 2, 1)));
  // Fields by hand from onnx.proto: a node MatMul(x, c0) -> v1, an initializer c0 of 2 f32, input x [1, 2], output v1 [1, 1].
  const node = Buffer.from('\x0a\x13\x0a\x01x\x0a\x02c0\x12\x02v1\x22\x06MatMul', 'latin1');
  expect(model.includes(node)).toBe(true);
  const { data } = (await matmulWork(1, 2, 1).parameters()).w;
  const raw = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  expect(
    model.includes(Buffer.concat([Buffer.from('\x08\x02\x08\x01\x10\x01\x42\x02c0\x4a\x08', 'latin1'), raw])),
  ).toBe(true);
  expect(
    model.includes(Buffer.from('\x0a\x01x\x12\x0e\x0a\x0c\x08\x01\x12\x08\x0a\x02\x08\x01\x0a\x02\x08\x02', 'latin1')),
  ).toBe(true);
});

describe('comparison', () => {
  const row = (peer: string, ms?: number, more: Partial<PeerRow> = {}): PeerRow => {
    return { work: 'w', peer, onAdapter: true, flops: 1, ms, ...more };
  };
  const rows = withRatios([
    row('emigm', 2),
    row('emigm f16', 1, { half: true }),
    row('a', 8),
    row('fast but wrong', 1, { wrong: true }),
    row('on the CPU', 1, { onAdapter: false }),
    row('half', 3, { half: true }),
    row('absent', undefined, { skipped: 'is not there' }),
  ]);

  it('ratios are to the row of the same precision; wrong numbers have none', () => {
    expect(rows.map(({ ratio }) => ratio)).toEqual([1, 1, 4, undefined, 0.5, 3, undefined]);
  });

  it('the best peer is one on the adapter whose numbers are right', () => {
    expect(bestPeers(rows.filter(({ half }) => !half))).toEqual([{ work: 'w', peer: 'a', ratio: 4 }]);
  });

  it('times on the device stand by themselves, beside the row of the same precision', () => {
    const timed = withRatios([
      row('emigm f16', 3, { half: true, residentMs: 0.5, flops: 1e9 }),
      row('emigm f16 tiled', 4, { half: true, residentMs: 1, flops: 1e9 }),
      row('half', 3, { half: true, residentMs: 0.25, flops: 1e9 }),
      row('another', 3, { half: true }),
    ]);
    expect(timed.map(({ residentRatio }) => residentRatio)).toEqual([1, 2, 0.5, undefined]);
    const text = residentTable({ rows: timed })!;
    expect(text).toMatch(/^ms on the device \(x emigm\) +emigm f16 +emigm f16 tiled +half *$/m);
    expect(text).toContain('0.500, 2.00 TFLOP/s');
    expect(text).toContain('0.250 (0.50), 4.00 TFLOP/s');
    expect(residentTable({ rows })).toBeUndefined();
  });

  it('the table says what is wrong and what is not there', () => {
    const head = { adapter: 'A', driver: 'D', commit: 'c', date: '2026-01-01' };
    const text = resultTable({ ...head, rows } as PeerResult);
    expect(text).toContain('8.00 (4.00)');
    expect(text).toContain('1.00 wrong');
    expect(text).toContain('absent, w: is not there');
  });
});
