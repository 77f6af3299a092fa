/** Every kernel file, in every specialisation that an op can ask for, compiles on Dawn's null backend: no driver needed. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Device } from '../../src/gpu/device.ts';
import { packageFolder, readKernelSource } from '../../src/gpu/node.ts';

const folder = join(packageFolder(), 'kernels');
const files = readdirSync(folder, { recursive: true, encoding: 'utf8' })
  .filter((path) => path.endsWith('.wgsl'))
  .map((path) => path.slice(0, -'.wgsl'.length).replaceAll('\\', '/'));

let device: Device;
beforeAll(async () => {
  device = await Device.open({ adapter: 'null' });
});
afterAll(() => device?.dispose());

const constant = (source: string, name: string) => new RegExp(`^const ${name}\\b`, 'm').test(source);

/** Values of the named constants and aliases that hosts choose. */
function specialisations(file: string): Record<string, string | number>[] {
  const source = readKernelSource(file);
  const list: Record<string, string | number>[] = [{}];
  const widest = file.includes('linear_attention') ? 64 : 128;
  if (constant(source, 'HEAD_DIM')) for (let dim = 32; dim <= widest; dim += 8) list.push({ HEAD_DIM: dim });
  if (constant(source, 'LANES') && !file.includes('quad')) {
    for (const lanes of [4, 8, 16, 32])
      list.push(constant(source, 'ROWS') ? { LANES: lanes, ROWS: lanes } : { LANES: lanes });
  }
  const halves: Record<string, string> = {};
  for (const [, name, type] of source.matchAll(/^alias (\w+) = ([\w<>]+);/gm)) {
    if (type === 'f32') halves[name] = 'f16';
    if (type === 'vec4<f32>' && name !== 'Vec') halves[name] = 'vec4<f16>';
  }
  if (Object.keys(halves).length > 0) list.push(halves);
  return list;
}

describe('kernels', () => {
  it('are there', () => expect(files.length).toBeGreaterThan(25));

  it.each(files)('%s compiles', async (file) => {
    for (const consts of specialisations(file)) {
      const kernel = device.kernels.get({ file, consts });
      await kernel.ready;
      expect(kernel.pipeline, JSON.stringify(consts)).toBeDefined();
    }
  });

  it.each(files)('%s says what it computes', (file) => {
    expect(readKernelSource(file)).toMatch(/^\/\/ .{20}/);
  });
});
