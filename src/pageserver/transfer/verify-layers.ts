/** Holds layer files that came from elsewhere against every checksum and rule that there is, before they are believed. */
import { corrupt } from "../../base/errors.ts";
import type { Files } from "../../base/seams.ts";
import { checkLayer } from "../../storage/check-layer.ts";
import { Findings } from "../../storage/findings.ts";
import { type LayerDescriptor, LayerFile } from "../../storage/layer-file.ts";
import { StoreCache } from "../../storage/store-cache.ts";

/** Each block is read once. */
const CACHE_BYTES = 1024 * 1024;
/** Between two reports of progress, in bytes. */
const REPORT_BYTES = 64 * 1024 * 1024;

/** Throws `corrupt` with the first thing that is wrong. */
export async function verifyLayers(
  layers: readonly { readonly path: string; readonly descriptor: LayerDescriptor }[],
  files: Files,
  options: { signal: AbortSignal; progress: (bytes: number) => void },
): Promise<void> {
  await using cache = new StoreCache({ capacityBytes: CACHE_BYTES }, { files });
  let done = 0;
  let reported = 0;
  for (const [number, { path, descriptor }] of layers.entries()) {
    const findings = new Findings();
    await checkLayer(new LayerFile(path, descriptor, cache), findings, {
      signal: options.signal,
      progress: (bytes) => {
        done += bytes;
        if (done - reported < REPORT_BYTES) return;
        reported = done;
        options.progress(done);
      },
    });
    const [first] = findings.list;
    cache.handles.forget(path);
    if (first === undefined) continue;
    throw corrupt(`received layer ${number} is damaged: ${first.what}`, {
      layer: number,
      offset: first.offset ?? null,
    });
  }
}
