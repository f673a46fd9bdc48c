/** Blocks: payloads in a layer file, each behind a header with checksum (layout in `layer-format.ts`). */
import { crc32c } from "../base/crc32c.ts";
import { corrupt } from "../base/errors.ts";
import { BLOCK_HEADER_SIZE } from "./layer-format.ts";

/** Fills in the header at `start`, whose payload follows it in `bytes` already. */
export function sealBlock(
  bytes: Uint8Array,
  start: number,
  block: { payloadSize: number; position: number; seed: number },
): void {
  putU32le(bytes, start + 4, block.payloadSize);
  putU32le(bytes, start + 8, block.position);
  putU32le(bytes, start + 12, block.seed);
  putU32le(bytes, start, crc32c(bytes, start + 4, start + BLOCK_HEADER_SIZE + block.payloadSize));
}

/** Where a block is claimed to be, and in which file. */
export interface BlockSite {
  readonly path: string;
  readonly position: number;
  /** Header included. */
  readonly sizeBytes: number;
  readonly seed: number;
}

/** Checks the block at `bytes[start..]` and returns its payload, a view. Throws `corrupt` with file and offset. */
export function openBlock(bytes: Uint8Array, start: number, site: BlockSite): Uint8Array {
  const end = start + site.sizeBytes;
  if (site.sizeBytes < BLOCK_HEADER_SIZE || end > bytes.length) {
    throw blockError(site, `has ${bytes.length - start} bytes of ${site.sizeBytes}`);
  }
  const expected = getU32le(bytes, start);
  const found = crc32c(bytes, start + 4, end);
  if (expected !== found) {
    throw corrupt(`${site.path}: block at offset ${site.position} does not match its checksum`, {
      file: site.path,
      offset: site.position,
      expected,
      found,
    });
  }
  const payloadSize = getU32le(bytes, start + 4);
  if (payloadSize !== site.sizeBytes - BLOCK_HEADER_SIZE)
    throw blockError(site, `claims ${payloadSize} bytes`);
  const position = getU32le(bytes, start + 8);
  if (position !== site.position) throw blockError(site, `belongs at offset ${position}`);
  if (getU32le(bytes, start + 12) !== site.seed) throw blockError(site, "belongs to another file");
  return bytes.subarray(start + BLOCK_HEADER_SIZE, end);
}

function blockError(site: BlockSite, what: string): Error {
  return corrupt(`${site.path}: block at offset ${site.position} ${what}`, {
    file: site.path,
    offset: site.position,
  });
}

export function putU32le(target: Uint8Array, offset: number, value: number): void {
  target[offset] = value;
  target[offset + 1] = value >>> 8;
  target[offset + 2] = value >>> 16;
  target[offset + 3] = value >>> 24;
}

/** The caller has checked that four bytes are there. */
export function getU32le(bytes: Uint8Array, offset: number): number {
  return (
    ((bytes[offset] as number) |
      ((bytes[offset + 1] as number) << 8) |
      ((bytes[offset + 2] as number) << 16) |
      ((bytes[offset + 3] as number) << 24)) >>>
    0
  );
}
