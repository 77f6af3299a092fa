/** Finding an entry of a table by its name. */
import { EmigmError } from '../errors.ts';

/**
 * The entry of that name.
 * @param what what the table holds, for the error: `mask distribution`
 * @throws EmigmError('input') that lists the names there are
 */
export function named<T>(table: Readonly<Record<string, T>>, name: string, what: string): T {
  if (Object.hasOwn(table, name)) return table[name];
  throw new EmigmError('input', `${what} "${name}" is unknown; choose one of ${Object.keys(table).join(', ')}`);
}
