/** pg_control files for tests, without a Postgres. */
import { crc32c } from "../../src/base/crc32c.ts";
import { CONTROL_FILE_SIZE, parseControlFile } from "../../src/postgres/control-file.ts";
import { POSTGRES_17 } from "../../src/postgres/versions/postgres-17.ts";

const PAGE_SIZE_OFFSET = 216;

/** A pg_control of Postgres 17 whose cluster has segments of this many bytes. */
export function controlFileOf(walSegmentSize: number): Uint8Array {
  const bytes = new Uint8Array(CONTROL_FILE_SIZE);
  const view = new DataView(bytes.buffer);
  view.setUint32(8, POSTGRES_17.controlVersion, true);
  view.setUint32(12, POSTGRES_17.catalogVersion, true);
  view.setUint32(204, 8, true);
  view.setFloat64(208, 1234567, true);
  for (const [i, value] of [8192, 131_072, 8192, walSegmentSize].entries())
    view.setUint32(PAGE_SIZE_OFFSET + 4 * i, value, true);
  view.setUint32(POSTGRES_17.controlCrcOffset, crc32c(bytes, 0, POSTGRES_17.controlCrcOffset), true);
  return bytes;
}

/** The same pg_control as a build with `--with-blocksize` would have it. */
export function withPageSize(control: Uint8Array, pageSize: number): Uint8Array {
  const { version } = parseControlFile(control);
  const bytes = new Uint8Array(control);
  const view = new DataView(bytes.buffer);
  view.setUint32(PAGE_SIZE_OFFSET, pageSize, true);
  view.setUint32(version.controlCrcOffset, crc32c(bytes, 0, version.controlCrcOffset), true);
  return bytes;
}
