/** Identifiers: 16 random bytes, written as 32 lower-case hexadecimal digits. */
import { ErrorCode, NeonError } from "./errors.ts";
import type { Random } from "./seams.ts";

export type TenantId = string & { readonly __brand: "TenantId" };
export type TimelineId = string & { readonly __brand: "TimelineId" };
/** Names one compute's right to write to a timeline; a fresh one each time a compute begins to write. */
export type WriterEpoch = string & { readonly __brand: "WriterEpoch" };

const ID_TEXT = /^[0-9a-f]{32}$/;

export function isId(text: string): boolean {
  return ID_TEXT.test(text);
}

export const parseTenantId = (text: string): TenantId => parseId(text, "tenant id") as TenantId;
export const parseTimelineId = (text: string): TimelineId => parseId(text, "timeline id") as TimelineId;
export const parseWriterEpoch = (text: string): WriterEpoch => parseId(text, "writer epoch") as WriterEpoch;

export const newTenantId = (random: Random): TenantId => newId(random) as TenantId;
export const newTimelineId = (random: Random): TimelineId => newId(random) as TimelineId;
export const newWriterEpoch = (random: Random): WriterEpoch => newId(random) as WriterEpoch;

/** Parses an id given by a user or read from a file; throws `usage` with the name of what was expected. */
function parseId(text: string, what: string): string {
  const lower = text.toLowerCase();
  if (!isId(lower)) {
    throw new NeonError(ErrorCode.Usage, `"${text}" is no ${what}`, {
      hint: `A ${what} has 32 hexadecimal digits.`,
    });
  }
  return lower;
}

function newId(random: Random): string {
  return bytesToHex(random.bytes(16));
}

export function bytesToHex(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += byte.toString(16).padStart(2, "0");
  return text;
}
