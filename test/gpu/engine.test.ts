/** The engine: kernel errors, operand checks, arena, replay, NaN guard, profile, memory, disposal. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { Device } from '../../src/gpu/device.ts';
import { KernelCache, specialise } from '../../src/gpu/kernel.ts';
import { readKernelSource } from '../../src/gpu/node.ts';
import type { Recorder } from '../../src/gpu/recorder.ts';
import { Session } from '../../src/gpu/session.ts';
import type { Tensor } from '../../src/gpu/tensor.ts';
import { PartTimer } from '../../src/gpu/timer.ts';
import { activation } from '../../src/ops/activation.ts';
import { gatherRows } from '../../src/ops/tokens.ts';
import { random } from '../helpers/golden.ts';

let device: Device;
const folder = mkdtempSync(join(tmpdir(), 'emigm-engine-'));
beforeAll(async () => {
  device = await Device.open();
});
afterAll(() => {
  device?.dispose();
  rmSync(folder, { recursive: true, force: true });
});

const kernelFile = (name: string, source: string) => {
  const path = join(folder, `${name}.wgsl`);
  writeFileSync(path, source);
  return path;
};
const params = { size: 4, width: 4, row_offset: 0 };

describe('kernels', () => {
  it('that do not compile are shown with file, line and source line', async () => {
    const file = kernelFile('broken', '// broken\n@compute @workgroup_size(1)\nfn main() { let x: i32 = 1.5; }\n');
    await expect(device.kernels.get({ file }).ready).rejects.toMatchObject({
      code: 'kernel',
      message: expect.stringMatching(/broken\.wgsl:3:\d+: [^\n]+\n\s+fn main\(\) \{ let x: i32 = 1\.5; \}/),
    });
  });

  it('that are missing name the file', () => {
    expect(() => device.kernels.get({ file: 'norm/nothing' })).toThrow(/nothing\.wgsl cannot be read/);
  });

  it('take new values of const and alias lines, and no others', () => {
    const source = '// header\nconst LANES: u32 = 8; // lanes\nalias Elem = f32;\n';
    expect(specialise(source, { LANES: 4 }, 'x')).toContain('const LANES: u32 = 4u; // lanes');
    expect(specialise(source, { Elem: 'f16' }, 'x')).toMatch(
      /^enable f16; \/\/ header\nconst LANES: u32 = 8;.*\nalias Elem = f16;/,
    );
    expect(() => specialise(source, { ROWS: 4 }, 'x')).toThrow(/x.*no const or alias named ROWS/);
  });

  it('ask for the subgroup size that the device relies on', async () => {
    const plan = await Device.plan({}); // Dawn's null backend has every feature
    onTestFinished(() => plan.dispose());
    const compile = (lanes: number, file: string) => {
      const kernels = new KernelCache(plan.handle, readKernelSource, lanes);
      return kernels.get({ file, consts: file === 'norm/layernorm_subgroup' ? { LANES: 32 } : {} }).ready;
    };
    await compile(8, 'norm/layernorm_subgroup');
    await compile(3, 'norm/layernorm'); // works without subgroups
    await expect(compile(3, 'norm/layernorm_subgroup')).rejects.toMatchObject({
      code: 'kernel',
      message: expect.stringContaining('subgroup_size'),
    });
  });

  it('check operands by name, type and size, parameters by name', () => {
    const session = new Session(device);
    const x = device.tensor([4], 'f32', 'x');
    const words = device.tensor([4], 'u32', 'words');
    const call = (operands: object, given: Record<string, number> = params) =>
      session.record('bad', (r) =>
        r.call({
          op: 'silu',
          kernel: { file: 'activation/activation' },
          operands: { ...operands },
          params: given,
          grid: [1],
        }),
      );
    expect(() => call({ x, row: undefined })).toThrow(/activation.*operand y is missing/);
    expect(() => call({ x, row: undefined, y: words })).toThrow(
      /operand y is \[4\] u32 \(words\), the kernel wants f32/,
    );
    expect(() => call({ x, row: undefined, y: x, z: x })).toThrow(/no operand z/);
    const { size: _, ...rest } = params;
    expect(() => call({ x, row: undefined, y: device.tensor([4], 'f32', 'y') }, rest)).toThrow(
      /parameter size is missing/,
    );
  });
});

it('a recording gives the same bytes each time it is replayed', async () => {
  const session = new Session(device);
  const x = device.tensor([1000], 'f32', 'x', random().normal(1000));
  const y = device.tensor([1000], 'f32', 'y');
  const program = session.record('chain', (r) => {
    const a = activation(r, 'silu', x, 1000);
    activation(r, 'gelu', activation(r, 'silu', a, 1000), 1000, { out: y });
  });
  await session.prepare();
  session.run(program);
  const first = await device.read(y);
  session.run([program, program]);
  expect(await device.read(y)).toEqual(first);
  session.dispose();
});

it('tensors that live at the same time never share memory, others do', async () => {
  const session = new Session(device);
  const inputs = Array.from({ length: 6 }, (_, i) =>
    device.tensor([64], 'f32', `x${i}`, new Float32Array(64).fill(i + 1)),
  );
  const out = device.tensor([64], 'f32', 'sum', new Float32Array(64));
  const order = device.tensor([1], 'u32', 'order', [0]);
  const program = session.record('sum', (r) => {
    // All copies are alive until the last is added.
    const copies = inputs.map((x) => gatherRows(r, x, { tensor: order, offset: 0 }, 1, 64));
    for (const copy of copies) gatherRows(r, copy, { tensor: order, offset: 0 }, 1, 64, { addTo: out });
    // Of this chain two at a time are.
    let x = inputs[0];
    for (let i = 0; i < 10; i++) x = activation(r, 'silu', x, 64);
  });
  await session.prepare();
  session.run(program);
  expect(await device.read(out)).toEqual(new Float32Array(64).fill(21));
  expect(session.plan().length).toBe(6);
  session.dispose();
});

describe('activations in a row', () => {
  const dispatches = (build: (r: Recorder, x: Tensor) => void, options = {}) => {
    const x = device.tensor([4], 'f32', 'x');
    const { dispatches } = new Session(device, options).record('chain', (r) => build(r, x));
    x.destroy();
    return dispatches.filter(({ op }) => op !== 'guard').length;
  };
  const inTurn = (r: Recorder, x: Tensor, ...kinds: ('gelu' | 'silu' | 'tanh')[]) =>
    kinds.reduce((y, kind) => activation(r, kind, y, 4), x);

  it('become one dispatch', () => {
    expect(dispatches((r, x) => inTurn(r, x, 'gelu', 'gelu', 'tanh', 'gelu', 'silu', 'silu'))).toBe(1);
    expect(dispatches((r, x) => inTurn(r, x, 'gelu', 'tanh', 'gelu', 'silu', 'gelu', 'gelu'))).toBe(2);
  });

  it('stay apart where what is between is read by others too, or lies elsewhere', () => {
    const twice = (r: Recorder, x: Tensor) => {
      const y = inTurn(r, x, 'gelu');
      inTurn(r, y, 'tanh');
      inTurn(r, y, 'silu');
    };
    expect(dispatches(twice)).toBe(3);
    expect(dispatches((r, x) => activation(r, 'tanh', inTurn(r, x, 'gelu'), 4, { out: x }))).toBe(2);
    const kept = device.tensor([4], 'f32', 'kept');
    expect(dispatches((r, x) => inTurn(r, activation(r, 'tanh', x, 4, { out: kept }), 'gelu'))).toBe(2);
    kept.destroy();
  });

  it('stay apart in other parts, where a row is added and under the NaN guard', () => {
    expect(
      dispatches((r, x) =>
        r.within('head', () =>
          inTurn(
            r,
            r.within('rest', () => inTurn(r, x, 'gelu')),
            'tanh',
          ),
        ),
      ),
    ).toBe(2);
    expect(dispatches((r, x) => activation(r, 'tanh', inTurn(r, x, 'gelu'), 4, { row: { tensor: x, index: 0 } }))).toBe(
      2,
    );
    expect(dispatches((r, x) => inTurn(r, x, 'gelu', 'tanh'), { nanGuard: true })).toBe(2);
  });
});

it('the NaN guard names the op whose output is first not finite', async () => {
  const guarded = await Device.open({ nanGuard: true });
  try {
    const session = new Session(guarded);
    const x = guarded.tensor([64], 'f32', 'x', new Float32Array(64).fill(1));
    const program = session.record('chain', (r) => {
      const a = activation(r, 'silu', x, 64);
      const b = activation(r, 'gelu', a, 64);
      activation(r, 'silu', b, 64);
    });
    await session.prepare();
    session.run(program);
    await session.checkFinite();
    guarded.write(x, [Number.NaN], 5);
    session.run(program);
    await expect(session.checkFinite()).rejects.toMatchObject({
      code: 'numeric',
      message: expect.stringMatching(/came out of silu/),
    });
    session.dispose();
  } finally {
    guarded.dispose();
  }
});

it('profiles every dispatch, and times parts', async () => {
  const session = new Session(device);
  const x = device.tensor([1 << 16], 'f32', 'x');
  const program = session.record('two', (r) => {
    const a = r.within('first', () => activation(r, 'silu', x, 1 << 16));
    r.within('second', () => activation(r, 'gelu', a, 1 << 16));
  });
  await session.prepare();
  const rows = await session.profile(program);
  expect(rows.map(({ op, part }) => [op, part])).toEqual([
    ['silu', 'first'],
    ['gelu', 'second'],
  ]);
  for (const row of rows) {
    expect(row.seconds).toBeGreaterThan(0);
    expect(row.bytes).toBe(2 * 4 * (1 << 16));
  }
  const timer = new PartTimer(device);
  session.run(program, timer);
  const parts = await timer.read();
  expect(Object.keys(parts).sort()).toEqual(['first', 'second']);
  timer.dispose();
  session.dispose();
});

it('says how much memory is needed and how much there may be', () => {
  expect(() => device.tensor([2 ** 33], 'f32', 'huge')).toThrow(
    /huge needs a buffer of 32\.00 GiB, the adapter .* allows/,
  );
});

it('views stay within their tensor', () => {
  const whole = device.tensor([256], 'f32', 'whole');
  expect(whole.view([64], 256, 'part').byteOffset).toBe(256);
  expect(() => whole.view([64], 100, 'part')).toThrow(/part/);
  expect(() => whole.view([256], 256, 'part')).toThrow(/part/);
});

it('a disposed device says so', async () => {
  const other = await Device.open();
  other.dispose();
  expect(() => other.tensor([4], 'f32', 'x')).toThrow(/disposed/);
  expect(other.allocated).toBe(0);
});

it('opening and disposing fifty times does not grow', async () => {
  const once = async () => {
    const other = await Device.open();
    const session = new Session(other);
    const x = other.tensor([1 << 20], 'f32', 'x');
    const program = session.record('one', (r) => void activation(r, 'silu', x, 1 << 20));
    await session.prepare();
    session.run(program);
    await other.done();
    session.dispose();
    x.destroy();
    other.dispose();
  };
  for (let i = 0; i < 10; i++) await once(); // caches fill
  const before = process.memoryUsage().rss;
  for (let i = 0; i < 50; i++) await once();
  // 50 runs use 400 MiB of buffers; what stays must be a small part of that.
  expect((process.memoryUsage().rss - before) / 2 ** 20).toBeLessThan(150);
});
