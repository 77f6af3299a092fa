/** What went wrong, for programs; the message says it for people. */
export type ErrorCode =
  | 'adapter' // no usable adapter, or a lost device
  | 'memory' // more memory than the adapter has
  | 'kernel' // a kernel that does not compile, or is bound wrongly
  | 'numeric' // NaN or infinity where numbers are expected
  | 'shape' // operands that do not fit together
  | 'file' // a missing, truncated or malformed file
  | 'model' // weights that do not fit the configuration
  | 'input' // a wrong flag or argument
  | 'aborted'; // stopped by the caller

/** The one error type of this library: says what, where and what to do. */
export class EmigmError extends Error {
  readonly code: ErrorCode;
  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'EmigmError';
    this.code = code;
  }
}
