/** A peer in a process of its own: does one thing at a time, as it is told by messages. */
import { PEERS, type Peer, type PeerOptions, type Prepared } from './peer.ts';
import type { Matrices } from './ops.ts';
import { workloads } from './workloads.ts';

export type Request =
  | { do: 'open'; peer: string; options: PeerOptions }
  | { do: 'prepare'; work: string }
  /** `resident`: also without the ways from and to the host. */
  | { do: 'measure'; resident?: boolean }
  | { do: 'release' };

export type Reply =
  | { device: string; versions: Record<string, string> }
  | { output: Float32Array; firstSeconds: number; prepareSeconds: number }
  | { seconds: number; resident?: number }
  | { done: true }
  | { error: string };

/** A measurement of short work is the mean of as many calls as fill this time. */
const SECONDS = 0.1;
/** Work whose first call takes longer, milliseconds, needs no other to be warm: its kernels are compiled. */
const LONG = 4000;

let peer: Peer;
let prepared: Prepared | undefined;
let inputs: Matrices;
let calls = 1;
/** Known after the first measurement. */
let residentCalls: number | undefined;

async function answer(request: Request): Promise<Reply> {
  switch (request.do) {
    case 'open': {
      peer = await PEERS.find(({ name }) => name === request.peer)!.open!(request.options);
      return { device: peer.device, versions: peer.versions };
    }
    case 'prepare': {
      const work = workloads().find(({ name }) => name === request.work)!;
      inputs = work.inputs();
      const start = performance.now();
      prepared = await peer.prepare(work);
      const middle = performance.now();
      const output = Float32Array.from(await prepared.run(inputs));
      const end = performance.now();
      calls = 1;
      residentCalls = undefined;
      if (end - middle < LONG) {
        calls = Math.max(1, Math.min(50, Math.floor(SECONDS / (await time(1)))));
        if (calls > 1) await time(Math.min(3, calls));
      }
      return { output, prepareSeconds: (middle - start) / 1000, firstSeconds: (end - middle) / 1000 };
    }
    case 'measure':
      return { seconds: await time(calls), ...(request.resident && { resident: await residentTime() }) };
    case 'release':
      await prepared?.release();
      prepared = undefined;
      return { done: true };
  }
}

async function time(count: number): Promise<number> {
  const start = performance.now();
  for (let i = 0; i < count; i++) await prepared!.run(inputs);
  return (performance.now() - start) / 1000 / count;
}

/** Seconds of the work once more on the same inputs, nothing read back. */
async function residentTime(): Promise<number | undefined> {
  if (!prepared?.resident) return undefined;
  const seconds = async (count: number) => {
    const start = performance.now();
    const done = await prepared!.resident!(count);
    return (performance.now() - start) / 1000 / done;
  };
  if (residentCalls === undefined) {
    await seconds(1);
    const start = performance.now();
    await seconds(3);
    residentCalls = Math.max(1, Math.min(1000, Math.floor((3000 * SECONDS) / (performance.now() - start))));
  }
  return seconds(residentCalls);
}

process.on('message', async (request: Request) => {
  let reply: Reply;
  try {
    reply = await answer(request);
  } catch (error) {
    reply = { error: String(error instanceof Error ? error.message : error).split('\n')[0] };
  }
  process.send!(reply);
});
process.on('disconnect', () => process.exit());
