/** Writes image layer files for a range of keys from a sorted source. */
import { AssertionError, assert } from "../base/errors.ts";
import type { Lsn } from "../base/lsn.ts";
import type { Files } from "../base/seams.ts";
import { type Key, ValueFlag, compareKeys } from "./key.ts";
import { type KeyRange, formatKey } from "./key-range.ts";
import { LayerKind } from "./layer-format.ts";
import { LayerWriter, type WrittenLayer } from "./layer-writer.ts";
import { Yielder } from "./yielder.ts";

/** A file is closed and another begun when its data reaches this size in bytes. */
const IMAGE_FILE_BYTES = 1024 * 1024 * 1024;

export type ImageSource = AsyncIterable<readonly { readonly key: Key; readonly bytes: Uint8Array }[]>;

/** What is to be written, and how to name the files. */
export interface ImageJob {
  readonly range: KeyRange;
  readonly lsn: Lsn;
  readonly source: ImageSource;
  /** A fresh temporary path for each file. */
  readonly newPath: () => string;
  readonly fileBytesMax?: number | undefined;
}

export interface WrittenImage extends WrittenLayer {
  readonly path: string;
}

/** The files, which cover the whole range between them. After a failure the caller removes what was begun. */
export async function writeImages(job: ImageJob, files: Files): Promise<WrittenImage[]> {
  const { range, lsn } = job;
  const header = { kind: LayerKind.Image, startLsn: lsn, endLsn: lsn };
  const fileBytesMax = job.fileBytesMax ?? IMAGE_FILE_BYTES;
  const yielder = new Yielder();
  const written: WrittenImage[] = [];
  let from = range.from;
  let last: Key | undefined;
  let path = job.newPath();
  let writer = await LayerWriter.create(path, header, files);
  try {
    for await (const batch of job.source) {
      for (const { key, bytes } of batch) {
        checkOrder(key, last, range);
        if (writer.dataBytes >= fileBytesMax && last !== undefined) {
          written.push({ ...(await writer.finish({ from, to: key })), path });
          from = key;
          path = job.newPath();
          writer = await LayerWriter.create(path, header, files);
        }
        last = key;
        writer.beginKey(key, key.block);
        writer.addValue(lsn, ValueFlag.Image, bytes, 0, bytes.length);
        if (writer.wantsDrain) await writer.drain();
      }
      if (yielder.due()) await yielder.yield();
    }
    written.push({ ...(await writer.finish({ from, to: range.to })), path });
  } finally {
    await writer[Symbol.asyncDispose]();
  }
  return written;
}

function checkOrder(key: Key, last: Key | undefined, range: KeyRange): void {
  if (compareKeys(key, range.from) < 0 || compareKeys(key, range.to) >= 0) {
    throw new AssertionError(`image of key ${formatKey(key)} is outside of its layer`);
  }
  assert(last === undefined || compareKeys(last, key) < 0, `image of key ${formatKey(key)} is out of order`);
}
