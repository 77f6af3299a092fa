/** Putting what a file holds on a device: one that is given, or one that is opened for it. */
import { Device, type DeviceOptions } from '../gpu/device.ts';
import { checkMatrices, openDevice } from '../ops/open_device.ts';

/** A network and where it is. */
export interface OnDevice<T> {
  readonly device: Device;
  readonly network: T;
  /** Frees the network, and the device unless it was given. */
  dispose(): void;
}

/**
 * Loads a network on a device and waits until its weights are there. Where that fails nothing is left: not the network,
 * nor the device unless it was given.
 * @throws EmigmError 'adapter' without a usable device, and what `load` throws
 */
export async function loadOn<T extends { dispose(): void }>(
  wanted: Device | DeviceOptions | undefined,
  load: (device: Device) => Promise<T>,
): Promise<OnDevice<T>> {
  const own = !(wanted instanceof Device);
  const device = own ? await openDevice(wanted) : wanted;
  if (!own) await checkMatrices(device);
  let network: T | undefined;
  const dispose = (): void => {
    network?.dispose();
    if (own) device.dispose();
  };
  try {
    network = await load(device);
    await device.done();
    return { device, network, dispose };
  } catch (error) {
    // Compilers still at work would outlive the device.
    await Promise.allSettled([...device.kernels].map(({ ready }) => ready));
    dispose();
    throw error;
  }
}
