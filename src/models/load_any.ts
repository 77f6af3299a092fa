/** Loading a model that draws, of continuous tokens or of codes, as its file says. */
import { type LoadedDiscreteModel, loadDiscreteModel } from './discrete/file.ts';
import { modelKind } from './kind.ts';
import { type LoadedModel, type LoadModelOptions, loadModel } from './load.ts';

/** A model that draws: of continuous tokens or of codes. */
export type DrawingModel = LoadedModel | LoadedDiscreteModel;

/** As `loadModel`, of either kind; `onAllocated` is called for continuous tokens alone. */
export async function loadAny(path: string, options: LoadModelOptions): Promise<DrawingModel> {
  if ((await modelKind(path)) !== 'discrete') return loadModel(path, options);
  const { device, stored, onProgress } = options;
  return loadDiscreteModel(path, { device, stored, onProgress });
}
