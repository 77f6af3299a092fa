/** A peer's process, from outside. */
import { type ChildProcess, fork } from 'node:child_process';
import { join } from 'node:path';
import { EmigmError } from '../../src/errors.ts';
import type { Reply, Request } from './child.ts';
import type { PeerDescription } from './peer.ts';

export type ReplyOf<R extends Request> = R extends { do: 'open' }
  ? Extract<Reply, { device: string }>
  : R extends { do: 'prepare' }
    ? Extract<Reply, { output: Float32Array }>
    : R extends { do: 'measure' }
      ? { seconds: number; resident?: number }
      : Extract<Reply, { done: true }>;

/** A peer in a process of its own. */
export interface PeerHandle {
  readonly description: PeerDescription;
  /** Asks for one thing and waits. @throws EmigmError 'input' with the peer's own words, or after `limit` seconds */
  ask<R extends Request>(request: R, limit: number): Promise<ReplyOf<R>>;
  /** Stands still, or goes on: some peers compile or collect garbage for seconds beside what is measured. */
  rest(still: boolean): void;
  kill(): void;
}

/** Stops a process, or lets it go on, where the system can. */
export function standStill(child: ChildProcess, still: boolean): void {
  if (process.platform !== 'win32') child.kill(still ? 'SIGSTOP' : 'SIGCONT');
}

export class PeerProcess implements PeerHandle {
  readonly description: PeerDescription;
  private readonly child: ChildProcess;
  private ended: string | undefined;

  constructor(description: PeerDescription, verbose: boolean) {
    this.description = description;
    this.child = fork(join(import.meta.dirname, 'child.ts'), {
      execArgv: [...process.execArgv, ...(description.flags ?? [])],
      serialization: 'advanced',
      stdio: ['ignore', verbose ? 'inherit' : 'ignore', verbose ? 'inherit' : 'ignore', 'ipc'],
    });
    this.child.on('exit', (code, signal) => {
      this.ended = `its process ended (${signal ?? `exit code ${code}`})`;
    });
  }

  async ask<R extends Request>(request: R, limit: number): Promise<ReplyOf<R>> {
    const reply = await this.reply(request, limit);
    if ('error' in reply) throw new EmigmError('input', reply.error);
    return reply as ReplyOf<R>;
  }

  private reply(request: Request, limit: number): Promise<Reply> {
    return new Promise((resolve) => {
      const { child } = this;
      const finish = (reply: Reply) => {
        clearTimeout(timer);
        child.off('message', finish);
        child.off('exit', ended);
        resolve(reply);
      };
      const ended = () => finish({ error: this.ended ?? 'its process ended' });
      const timer = setTimeout(() => {
        this.kill();
        finish({ error: `took longer than ${limit} s` });
      }, limit * 1000);
      if (this.ended !== undefined) return finish({ error: this.ended });
      child.on('message', finish);
      child.on('exit', ended);
      child.send(request);
    });
  }

  rest(still: boolean): void {
    standStill(this.child, still);
  }

  kill(): void {
    this.ended ??= 'its process was stopped';
    this.child.kill('SIGKILL');
  }
}
