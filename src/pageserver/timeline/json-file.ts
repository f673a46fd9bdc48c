/**
 * Small files that hold one JSON value: tenant.json, metadata.json and the refs. The first line names the format, its
 * version and a checksum; the rest is the value, for people to read. Format: docs/formats/tenant.md.
 *
 *     neon-tenant 1 9bdc0a41
 *     {
 *       "tenant_id": ...
 *
 * The checksum is the CRC-32C, in 8 hexadecimal digits, over the first line up to it and everything after that line.
 */
import { dirname } from "node:path";
import { crc32cUpdate } from "../../base/crc32c.ts";
import { ErrorCode, NeonError, assert, corrupt } from "../../base/errors.ts";
import type { Files } from "../../base/seams.ts";
import { JsonFields } from "../json-fields.ts";

/** Ends the name of the temporary file; no ref and no file of ours ends so. */
export const TEMPORARY_SUFFIX = ".lock";
/** Far above what any of these files holds; keeps a damaged directory from filling memory. */
const FILE_BYTES_MAX = 64 * 1024 * 1024;
const HEADER = /^([a-z0-9-]+) ([1-9][0-9]{0,8}) ([0-9a-f]{8})$/;

/** A file's value as it was read: checked against damage, its fields not looked at yet. */
export interface JsonFile {
  readonly version: number;
  readonly fields: JsonFields;
}

/**
 * Replaces the file as one step: after a crash it holds the old value or the new one. Returns when the new value is
 * durable. The directory must exist; the caller makes sure that nobody else writes the same file.
 */
export async function writeJsonFile(
  files: Files,
  path: string,
  magic: string,
  version: number,
  value: unknown,
): Promise<void> {
  const prefix = new TextEncoder().encode(`${magic} ${version} `);
  const body = new TextEncoder().encode(`${JSON.stringify(value, null, 2)}\n`);
  const head = new TextEncoder().encode(`${magic} ${version} ${checksum(prefix, body)}\n`);
  assert(HEADER.test(new TextDecoder().decode(head.subarray(0, -1))), `header of ${magic} is well formed`);
  const bytes = new Uint8Array(head.length + body.length);
  bytes.set(head);
  bytes.set(body, head.length);
  const temporary = path + TEMPORARY_SUFFIX;
  try {
    const file = await files.open(temporary, "w");
    try {
      await file.write(bytes, 0);
      await file.sync();
    } finally {
      await file.close();
    }
    await files.rename(temporary, path);
  } catch (error) {
    // A full disk gets its bytes back; the first error is the one to report.
    await files.remove(temporary).catch(() => undefined);
    throw error;
  }
  await files.syncDirectory(dirname(path));
}

/** Removes what a write that was interrupted left beside the file; for those who open it. */
export async function removeInterruptedWrite(files: Files, path: string): Promise<void> {
  await files.remove(path + TEMPORARY_SUFFIX);
}

/**
 * Reads what `writeJsonFile` wrote; undefined if there is no file. Throws `corrupt` for a wrong magic or checksum and
 * `unsupported` for a version above `newestVersion`.
 */
export async function readJsonFile(
  files: Files,
  path: string,
  magic: string,
  newestVersion: number,
): Promise<JsonFile | undefined> {
  const bytes = await files.readWhole(path);
  if (bytes === undefined) return undefined;
  const damaged = (message: string, offset: number): NeonError =>
    corrupt(`${path}: ${message}`, { path, offset });
  if (bytes.length > FILE_BYTES_MAX) throw damaged(`longer than ${FILE_BYTES_MAX} bytes`, FILE_BYTES_MAX);
  const lineEnd = bytes.indexOf(0x0a);
  const header = lineEnd < 0 ? null : HEADER.exec(new TextDecoder().decode(bytes.subarray(0, lineEnd)));
  if (!header || header[1] !== magic) throw damaged(`does not begin as a "${magic}" file`, 0);
  const body = bytes.subarray(lineEnd + 1);
  const found = checksum(bytes.subarray(0, lineEnd - 8), body);
  if (found !== header[3]) {
    throw damaged(`checksum is ${found}, its header says ${String(header[3])}`, lineEnd - 8);
  }
  const version = Number(header[2]);
  if (version > newestVersion) {
    throw new NeonError(
      ErrorCode.Unsupported,
      `${path} has version ${version}, we know up to ${newestVersion}`,
      {
        hint: "It was written by a newer release: use that one.",
        data: { path, version },
      },
    );
  }
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(body));
  } catch (error) {
    throw corrupt(`${path}: its content is no JSON`, { path, offset: lineEnd + 1 }, error);
  }
  return { version, fields: new JsonFields(value, "", (message) => damaged(message, lineEnd + 1)) };
}

function checksum(prefix: Uint8Array, body: Uint8Array): string {
  const state = crc32cUpdate(crc32cUpdate(-1, prefix, 0, prefix.length), body, 0, body.length);
  return ((state ^ -1) >>> 0).toString(16).padStart(8, "0");
}
