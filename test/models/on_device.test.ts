import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Device } from '../../src/gpu/device.ts';
import type { Kernel } from '../../src/gpu/kernel.ts';
import { loadOn } from '../../src/models/on_device.ts';

let given: Device;
beforeAll(async () => {
  given = await Device.open({ adapter: 'null' });
});
afterAll(() => given?.dispose());

/** A network that counts how often it was freed. */
function network() {
  let freed = 0;
  return { dispose: () => void freed++, freed: () => freed };
}

describe('loadOn', () => {
  it('frees the network, and the device that it has opened, when it is disposed', async () => {
    const loaded = await loadOn({ adapter: 'null' }, async () => network());
    loaded.dispose();
    expect(loaded.network.freed()).toBe(1);
    expect(() => loaded.device.check()).toThrow(/disposed/);
  });

  it('leaves a device that it was given open', async () => {
    const loaded = await loadOn(given, async () => network());
    expect(loaded.device).toBe(given);
    loaded.dispose();
    expect(loaded.network.freed()).toBe(1);
    expect(() => given.check()).not.toThrow();
  });

  it.each([
    ['opened', true],
    ['given', false],
  ])('waits for compilers when it fails on a device that was %s', async (_, own) => {
    let device: Device | undefined;
    let kernel: Kernel | undefined;
    const failing = loadOn(own ? { adapter: 'null' } : given, async (it) => {
      device = it;
      kernel = it.kernels.get({ file: 'check/finite' });
      throw new Error('a damaged file');
    });
    await expect(failing).rejects.toThrow('a damaged file');
    expect(kernel?.pipeline).toBeDefined();
    if (own) expect(() => device!.check()).toThrow(/disposed/);
    else expect(() => device!.check()).not.toThrow();
  });

  it('frees the network when its weights do not arrive', async () => {
    const one = network();
    const failing = loadOn({ adapter: 'null' }, async (device) => {
      device.done = () => Promise.reject(new Error('the device was lost'));
      return one;
    });
    await expect(failing).rejects.toThrow('the device was lost');
    expect(one.freed()).toBe(1);
  });
});
