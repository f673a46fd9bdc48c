/** Writes a frozen memory layer as a delta layer file, giving way to the event loop every few milliseconds. */
import { assert } from "../base/errors.ts";
import type { Files } from "../base/seams.ts";
import type { ValuePlace } from "./index-writer.ts";
import { SHARE_MIN_BYTES, LayerKind } from "./layer-format.ts";
import { LayerWriter, type WrittenLayer } from "./layer-writer.ts";
import type { MemoryLayer } from "./memory-layer.ts";
import type { PrefixTable } from "./prefix-table.ts";
import { Yielder } from "./yielder.ts";

/** Steps between two looks at the clock. */
const STEPS = 64;

export async function writeDelta(
  layer: MemoryLayer,
  prefixes: PrefixTable,
  path: string,
  files: Files,
): Promise<WrittenLayer> {
  const { startLsn, endLsn } = layer;
  await using writer = await LayerWriter.create(path, { kind: LayerKind.Delta, startLsn, endLsn }, files);
  const yielder = new Yielder();
  const slots = await layer.sortedSlots(undefined, yielder);
  assert(slots.length > 0, "an empty layer is not written");
  const shared = new Map<number, ValuePlace>();
  const scratch = { values: new Uint32Array(1024) };
  let steps = 0;
  for (let i = 0; i < slots.length; i++) {
    const slot = slots[i] as number;
    writer.beginKey(prefixes.prefix(layer.slotHandle(slot)), layer.slotBlock(slot));
    const count = layer.slotValues(slot, scratch);
    for (let k = 0; k < count; k++) {
      addValue(layer, scratch.values[k] as number, writer, shared);
      if (writer.wantsDrain) await writer.drain();
      if (++steps % STEPS === 0 && yielder.due()) await yielder.yield();
    }
  }
  return await writer.finish();
}

/** A long blob that several keys refer to is written with the first of them only. */
function addValue(
  layer: MemoryLayer,
  value: number,
  writer: LayerWriter,
  shared: Map<number, ValuePlace>,
): void {
  const { arena } = layer;
  const lsn = layer.valueLsn(value);
  const flags = layer.valueFlags(value);
  const blob = layer.valueBlob(value);
  if (blob === 0) {
    writer.addValue(lsn, flags, NO_BYTES, 0, 0);
    return;
  }
  const length = arena.lengthOf(blob);
  const isShared = length >= SHARE_MIN_BYTES && arena.isShared(blob);
  const place = isShared ? shared.get(blob) : undefined;
  if (place !== undefined) {
    writer.addReference(lsn, flags, length, place);
    return;
  }
  const start = arena.startOf(blob);
  const written = writer.addValue(lsn, flags, arena.slab(blob), start, start + length);
  if (isShared) shared.set(blob, written);
}

const NO_BYTES = new Uint8Array(0);
