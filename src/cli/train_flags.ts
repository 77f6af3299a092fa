/** Flags of `emigm train`: every hyper-parameter by its name, with its default and what it does. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { type HyperparameterInput, type HyperparameterName, hyperparameters } from '../training/settings.ts';

const kebab = (name: string) => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

function reader(name: HyperparameterName): (text: string) => unknown {
  const [type] = hyperparameters[name];
  return (text) => {
    const number = Number(text);
    const value = text === 'true' || text === 'false' ? text === 'true' : Number.isNaN(number) ? text : number;
    const parsed = type.safeParse(value);
    if (!parsed.success) throw new InvalidArgumentError(parsed.error.issues[0].message);
    return parsed.data;
  };
}

/** Adds a flag for each hyper-parameter; their defaults stay those of the configuration file. */
export function addHyperparameterFlags(command: Command): void {
  for (const name of Object.keys(hyperparameters) as HyperparameterName[]) {
    const [type, text] = hyperparameters[name];
    const initial = type.safeParse(undefined).data;
    const shown = initial === undefined ? text : `${text} (default: ${initial})`;
    if (typeof initial === 'boolean') {
      const flag = initial ? `--no-${kebab(name)}` : `--${kebab(name)}`;
      command.option(flag, initial ? `do not ${text}` : text);
    } else {
      command.addOption(new Option(`--${kebab(name)} <x>`, shown).argParser(reader(name)));
    }
  }
}

/** The hyper-parameters that were given on the command line. */
export function givenHyperparameters(command: Command): HyperparameterInput {
  const values: Record<string, unknown> = {};
  for (const name of Object.keys(hyperparameters)) {
    if (command.getOptionValueSource(name) === 'cli') values[name] = command.getOptionValue(name);
  }
  return values as HyperparameterInput;
}
