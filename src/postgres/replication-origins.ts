/**
 * `pg_logical/replorigin_checkpoint`: how far changes of other servers have been applied, per replication origin.
 * Little-endian. Source: PostgreSQL 14-18, src/backend/replication/logical/origin.c, CheckPointReplicationOrigin.
 *
 *   offset    size  field
 *        0       4  magic 0x1257DADE
 *        4  16 * n  entries: number of the origin u16, 6 bytes of zeros, LSN on the other server u64
 *   at end       4  CRC-32C of everything before
 */
import { ByteReader, ByteWriter } from "../base/bytes.ts";
import { crc32c } from "../base/crc32c.ts";
import { corrupt } from "../base/errors.ts";

export const REPLICATION_ORIGINS_PATH = "pg_logical/replorigin_checkpoint";

const MAGIC = 0x1257dade;
const ENTRY_SIZE = 16;
const FRAME_SIZE = 8;

export interface OriginProgress {
  /** The origin's number, 1 to 65534. */
  readonly origin: number;
  /** The end of the last transaction applied, in the WAL of the other server, which need not be a Postgres. */
  readonly remoteLsn: bigint;
}

/** The file's content. */
export function encodeOrigins(origins: readonly OriginProgress[]): Uint8Array {
  const writer = new ByteWriter(FRAME_SIZE + ENTRY_SIZE * origins.length).u32le(MAGIC);
  for (const { origin, remoteLsn } of origins) writer.u16le(origin).zeros(6).u64le(remoteLsn);
  const body = writer.finish();
  return new ByteWriter(body.length + 4).bytes(body).u32le(crc32c(body)).finish();
}

/** Reads the file's content. Throws `corrupt` if it is damaged. */
export function decodeOrigins(bytes: Uint8Array): OriginProgress[] {
  const count = (bytes.length - FRAME_SIZE) / ENTRY_SIZE;
  if (!Number.isInteger(count) || count < 0) {
    throw corrupt(`${REPLICATION_ORIGINS_PATH} has ${bytes.length} bytes`, { length: bytes.length });
  }
  const reader = new ByteReader(bytes);
  const magic = reader.u32le();
  if (magic !== MAGIC) throw corrupt(`${REPLICATION_ORIGINS_PATH} has another magic`, { magic, offset: 0 });
  const origins: OriginProgress[] = [];
  for (let i = 0; i < count; i++) {
    const origin = reader.u16le();
    reader.skip(6);
    origins.push({ origin, remoteLsn: reader.u64le() });
  }
  const end = bytes.length - 4;
  if (reader.u32le() !== crc32c(bytes.subarray(0, end))) {
    throw corrupt(`${REPLICATION_ORIGINS_PATH} has a wrong checksum`, { offset: end });
  }
  return origins;
}
