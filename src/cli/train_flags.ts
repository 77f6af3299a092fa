/** Flags of commands that train: every hyper-parameter by its name, with its default and what it does. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { z } from 'zod';
import { hyperparameters } from '../training/settings.ts';
import { kebab } from './options.ts';

/** Hyper-parameters by name: type with default, and help text. */
export type HyperparameterTable = Readonly<Record<string, readonly [z.ZodType, string]>>;

function reader(type: z.ZodType): (text: string) => unknown {
  return (text) => {
    const number = Number(text);
    const value = text === 'true' || text === 'false' ? text === 'true' : Number.isNaN(number) ? text : number;
    const parsed = type.safeParse(value);
    if (parsed.success) return parsed.data;
    const list = type.safeParse(text.split(',').map(Number)); // 48,96
    if (!list.success) throw new InvalidArgumentError(parsed.error.issues[0].message);
    return list.data;
  };
}

/** Adds a flag for each hyper-parameter; their defaults stay those of the table or a configuration file. */
export function addHyperparameterFlags(command: Command, table: HyperparameterTable = hyperparameters): void {
  for (const [name, [type, text]] of Object.entries(table)) {
    const initial = type.safeParse(undefined).data;
    const shown = initial === undefined ? text : `${text} (default: ${initial})`;
    if (typeof initial === 'boolean') {
      const flag = initial ? `--no-${kebab(name)}` : `--${kebab(name)}`;
      command.option(flag, initial ? `do not ${text}` : text);
    } else {
      command.addOption(new Option(`--${kebab(name)} <x>`, shown).argParser(reader(type)));
    }
  }
}

/** The hyper-parameters that were given on the command line. */
export function givenHyperparameters<Table extends HyperparameterTable = typeof hyperparameters>(
  command: Command,
  table?: Table,
): { [Name in keyof Table]?: z.input<Table[Name][0]> } {
  const values: Record<string, unknown> = {};
  for (const name of Object.keys(table ?? hyperparameters)) {
    if (command.getOptionValueSource(name) === 'cli') values[name] = command.getOptionValue(name);
  }
  return values as { [Name in keyof Table]?: z.input<Table[Name][0]> };
}
