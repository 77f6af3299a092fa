/** PyTorch's process, from outside: lines of JSON, matrices by files. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { EmigmError } from '../../src/errors.ts';
import { parameterShapes } from '../../src/models/config.ts';
import type { Reply, Request } from './child.ts';
import type { Matrices } from './ops.ts';
import type { PeerDescription } from './peer.ts';
import { type PeerHandle, type ReplyOf, standStill } from './process.ts';
import { samplingConfig, samplingPlan } from './sampling.ts';
import { CLASS, CONFIG, networkRows, type Workload, workloads } from './workloads.ts';

export class PythonProcess implements PeerHandle {
  readonly description: PeerDescription;
  private readonly child: ChildProcess;
  private readonly folder = mkdtempSync(join(tmpdir(), 'emigm-peers-'));
  private answered: (reply: Reply & { file?: string }) => void = () => {};
  private ended: string | undefined;

  constructor(description: PeerDescription, { verbose, onCpu }: { verbose: boolean; onCpu: boolean }) {
    this.description = description;
    const python = process.env.PYTHON ?? 'python3';
    const flags = [...(description.python ?? []), ...(onCpu ? ['--cpu'] : [])];
    this.child = spawn(python, [join(import.meta.dirname, 'pytorch.py'), ...flags], {
      stdio: ['pipe', 'pipe', verbose ? 'inherit' : 'ignore'],
    });
    const end = (why: string) => {
      this.ended ??= why;
      this.answered({ error: this.ended });
    };
    this.child.on('error', () => end(`there is no ${python} to start`));
    this.child.on('exit', (code, signal) => end(`its process ended (${signal ?? `exit code ${code}`})`));
    this.child.stdin!.on('error', () => end('its process ended'));
    createInterface({ input: this.child.stdout! }).on('line', (line) => {
      if (line.startsWith('{')) this.answered(JSON.parse(line));
    });
  }

  /** As `PeerProcess.ask`. */
  async ask<R extends Request>(request: R, limit: number): Promise<ReplyOf<R>> {
    let message: object = request;
    if (request.do === 'prepare') {
      await writeWork(this.folder, workloads().find(({ name }) => name === request.work)!);
      message = { ...request, folder: this.folder };
    }
    const reply = await this.reply(message, limit);
    if ('error' in reply) throw new EmigmError('input', reply.error);
    const { file } = reply;
    if (file === undefined) return reply as ReplyOf<R>;
    const bytes = readFileSync(file);
    const output = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
    return { ...reply, output } as unknown as ReplyOf<R>;
  }

  private reply(message: object, limit: number): Promise<Reply & { file?: string }> {
    if (this.ended !== undefined) return Promise.resolve({ error: this.ended });
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        this.kill();
        resolve({ error: `took longer than ${limit} s` });
      }, limit * 1000);
      this.answered = (reply) => {
        clearTimeout(timer);
        resolve(reply);
      };
      this.child.stdin!.write(`${JSON.stringify(message)}\n`);
    });
  }

  rest(still: boolean): void {
    standStill(this.child, still);
  }

  kill(): void {
    this.ended ??= 'its process was stopped';
    this.child.kill('SIGKILL');
    rmSync(this.folder, { recursive: true, force: true });
  }
}

const isLinear = (name: string, rows: number): boolean =>
  name === 'w' || (name.endsWith('.weight') && rows > 1 && name !== 'class_emb.weight');

/** What pytorch.py's `prepare` reads. */
async function writeWork(folder: string, work: Workload): Promise<void> {
  const matrices: object[] = [];
  const parts: Uint8Array[] = [];
  let offset = 0;
  const add = (kind: 'input' | 'parameter', given: Matrices) => {
    for (const [name, { rows, columns, data }] of Object.entries(given)) {
      matrices.push({ name, kind, rows, columns, offset, linear: kind === 'parameter' && isLinear(name, rows) });
      parts.push(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      offset += data.length;
    }
  };
  add('input', work.inputs());
  add('parameter', await work.parameters());
  const { kind, sizes } = work;
  const config = kind === 'sampling' ? samplingConfig(work) : CONFIG;
  const sampling = kind === 'sampling' && {
    plan: samplingPlan(work),
    shapes: Object.fromEntries(parameterShapes(config)),
  };
  const description = { kind, sizes, config, matrices, rows: networkRows(), class: CLASS, ...sampling };
  writeFileSync(join(folder, 'work.json'), JSON.stringify(description));
  writeFileSync(join(folder, 'data.bin'), '');
  for (const part of parts) writeFileSync(join(folder, 'data.bin'), part, { flag: 'a' });
}
