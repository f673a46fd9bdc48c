/**
 * Reading a JSON object field by field. Outside data is `unknown` until a method here has looked at it; what does
 * not fit is reported by the error function the reader was given (a bad request is the user's fault, a bad file is
 * damage), always naming the field by its whole path.
 */
import type { NeonError } from "../base/errors.ts";
import { type TimelineId, type TenantId, type WriterEpoch, isId } from "../base/ids.ts";
import { type Lsn, parseLsn } from "../base/lsn.ts";

/** Makes the error for a misfit; the message names the field. */
export type Misfit = (message: string, field: string) => NeonError;

export interface TextLimits {
  readonly minLength?: number;
  /** In UTF-16 code units; 1000 unless given. */
  readonly maxLength?: number;
}

const TEXT_LENGTH_MAX = 1000;

export class JsonFields {
  private readonly fields: Readonly<Record<string, unknown>>;
  private readonly path: string;
  private readonly misfit: Misfit;
  private readonly seen = new Set<string>();

  /** `path` is how messages name the object itself; empty for the outermost. Throws if `value` is no object. */
  constructor(value: unknown, path: string, misfit: Misfit) {
    this.path = path;
    this.misfit = misfit;
    if (!isJsonObject(value)) throw misfit(`${path || "the body"} must be a JSON object`, path);
    this.fields = value;
  }

  /** Whether the field is there and not null. */
  has(key: string): boolean {
    return this.value(key) !== undefined;
  }

  /** The names of all fields. */
  keys(): string[] {
    return Object.keys(this.fields);
  }

  isText(key: string): boolean {
    return typeof this.value(key) === "string";
  }

  isNumber(key: string): boolean {
    return typeof this.value(key) === "number";
  }

  text(key: string, limits: TextLimits = {}): string {
    const value = this.value(key);
    const { minLength = 1, maxLength = TEXT_LENGTH_MAX } = limits;
    if (typeof value !== "string") throw this.wrong(key, "must be a string");
    if (value.length < minLength) throw this.wrong(key, "must not be empty");
    if (value.length > maxLength) throw this.wrong(key, `must have at most ${maxLength} characters`);
    // A NUL would end the text where it reaches the operating system or Postgres.
    if (value.includes("\0")) throw this.wrong(key, "must not contain a NUL character");
    return value;
  }

  optionalText(key: string, limits: TextLimits = {}): string | undefined {
    return this.has(key) ? this.text(key, limits) : undefined;
  }

  integer(key: string, range: { min: number; max: number }): number {
    const value = this.value(key);
    if (typeof value !== "number" || !Number.isSafeInteger(value) || value < range.min || value > range.max) {
      throw this.wrong(key, `must be a whole number from ${range.min} to ${range.max}`);
    }
    return value;
  }

  boolean(key: string): boolean {
    const value = this.value(key);
    if (typeof value !== "boolean") throw this.wrong(key, "must be true or false");
    return value;
  }

  lsn(key: string): Lsn {
    if (!this.has(key)) throw this.wrong(key, "must be an LSN such as 0/16E2408");
    const text = this.text(key);
    const lsn = parseLsn(text);
    if (lsn === undefined) throw this.wrong(key, `must be an LSN such as 0/16E2408, not "${text}"`);
    return lsn;
  }

  /** A 64-bit number, written as a string of decimal digits because JSON numbers end at 2^53. */
  u64(key: string): bigint {
    const text = this.text(key, { maxLength: 20 });
    const value = /^[0-9]+$/.test(text) ? BigInt(text) : undefined;
    if (value === undefined || value >= 2n ** 64n) throw this.wrong(key, "must be a decimal 64-bit number");
    return value;
  }

  /** Milliseconds since 1970 of an ISO 8601 text. */
  time(key: string): number {
    const time = Date.parse(this.text(key, { maxLength: 40 }));
    if (Number.isNaN(time)) throw this.wrong(key, "must be a time in ISO 8601");
    return time;
  }

  timelineId(key: string): TimelineId {
    return this.id(key) as TimelineId;
  }

  tenantId(key: string): TenantId {
    return this.id(key) as TenantId;
  }

  writerEpoch(key: string): WriterEpoch {
    return this.id(key) as WriterEpoch;
  }

  object(key: string): JsonFields {
    const value = this.value(key);
    if (!isJsonObject(value)) throw this.wrong(key, "must be a JSON object");
    return new JsonFields(value, this.name(key), this.misfit);
  }

  /** An object, or undefined where the field is missing or null. */
  optionalObject(key: string): JsonFields | undefined {
    return this.has(key) ? this.object(key) : undefined;
  }

  /** A list of objects. */
  objects(key: string): JsonFields[] {
    const value = this.value(key);
    if (!Array.isArray(value)) throw this.wrong(key, "must be a list");
    return value.map((item, index) => new JsonFields(item, `${this.name(key)}[${index}]`, this.misfit));
  }

  /** A list of strings. */
  texts(key: string): string[] {
    const value = this.value(key);
    const isText = (item: unknown): item is string => typeof item === "string";
    if (!Array.isArray(value) || !value.every(isText)) throw this.wrong(key, "must be a list of strings");
    return value;
  }

  /** Refuses fields that nothing has asked for: a misspelt option must not be silently ignored. */
  end(): void {
    for (const key of Object.keys(this.fields)) {
      if (!this.seen.has(key)) throw this.wrong(key, "is not known here");
    }
  }

  /** The error for a field whose value does not fit for a reason that only the caller knows. */
  wrong(key: string, message: string): NeonError {
    const name = this.name(key);
    return this.misfit(
      `field "${name}" ${this.value(key) === undefined ? `is missing: it ${message}` : message}`,
      name,
    );
  }

  private id(key: string): string {
    const lower = this.has(key) ? this.text(key).toLowerCase() : "";
    if (!isId(lower)) throw this.wrong(key, "must have 32 hexadecimal digits");
    return lower;
  }

  private name(key: string): string {
    return this.path === "" ? key : `${this.path}.${key}`;
  }

  private value(key: string): unknown {
    this.seen.add(key);
    return Object.hasOwn(this.fields, key) ? (this.fields[key] ?? undefined) : undefined;
  }
}

function isJsonObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
