/**
 * Reading the pageserver's JSON. Its answers are outside data: everything is `unknown` until a function here has
 * looked at it, and what does not fit is an `unreachable` error that names the field.
 */
import { ErrorCode, NeonError } from "../base/errors.ts";
import { type TimelineId, type WriterEpoch, isId } from "../base/ids.ts";
import type { Lineage } from "../base/lineage.ts";
import { type Lsn, parseLsn } from "../base/lsn.ts";

export type JsonObject = Readonly<Record<string, unknown>>;

export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function misfit(field: string, expected: string): NeonError {
  return new NeonError(ErrorCode.Unreachable, `the pageserver's answer has no ${expected} "${field}"`, {
    hint: "Command line and pageserver may be of different versions: run `neon stop` and `neon start`.",
  });
}

export function asObject(value: unknown, field: string): JsonObject {
  if (!isObject(value)) throw misfit(field, "object");
  return value;
}

export function arrayField(object: JsonObject, field: string): readonly unknown[] {
  const value = object[field];
  if (!Array.isArray(value)) throw misfit(field, "list");
  return value;
}

export function textField(object: JsonObject, field: string): string {
  const value = object[field];
  if (typeof value !== "string") throw misfit(field, "text");
  return value;
}

/** Text, or null where it is missing or null. */
export function optionalTextField(object: JsonObject, field: string): string | null {
  return object[field] === undefined || object[field] === null ? null : textField(object, field);
}

export function numberField(object: JsonObject, field: string): number {
  const value = object[field];
  if (typeof value !== "number" || !Number.isFinite(value)) throw misfit(field, "number");
  return value;
}

export function optionalNumberField(object: JsonObject, field: string): number | null {
  return object[field] === undefined || object[field] === null ? null : numberField(object, field);
}

export function lsnField(object: JsonObject, field: string): Lsn {
  const lsn = parseLsn(textField(object, field));
  if (lsn === undefined) throw misfit(field, "LSN");
  return lsn;
}

function idField(object: JsonObject, field: string): string {
  const text = textField(object, field);
  if (!isId(text)) throw misfit(field, "id");
  return text;
}

export const timelineIdField = (object: JsonObject, field: string): TimelineId =>
  idField(object, field) as TimelineId;
export const writerEpochField = (object: JsonObject, field: string): WriterEpoch =>
  idField(object, field) as WriterEpoch;

/** Where the WAL of a branch comes from; undefined where it is missing or null. */
export function optionalLineageField(object: JsonObject, field: string): Lineage | undefined {
  const value = object[field];
  if (value === undefined || value === null) return undefined;
  const lineage = asObject(value, field);
  return {
    entries: arrayField(lineage, "entries").map((item) => {
      const entry = asObject(item, `${field}.entries[]`);
      return { startLsn: lsnField(entry, "start_lsn"), epoch: textField(entry, "epoch") };
    }),
    endLsn: lsnField(lineage, "end_lsn"),
  };
}
