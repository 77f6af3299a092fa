/** What a command may use of the process: commands print and stop through this, so that they can run in tests. */
export interface Io {
  /** One line (or several) of results. */
  out(line: string): void;
  /** One line about what is going on, or wrong. */
  err(line: string): void;
  /** Width of the terminal in characters, or undefined where there is none (a pipe, a file). */
  readonly columns: number | undefined;
  /** Aborted when the user stops the command. */
  readonly signal: AbortSignal;
  /** Says that the command takes its time to save when it is stopped; only a second Ctrl-C ends it at once. */
  savesWhenStopped?(): void;
}
