/** What a route is given and what it may answer, and the reading of paths and queries. */
import type { IncomingMessage } from "node:http";
import { type TenantId, type TimelineId, type WriterEpoch, isId } from "../../base/ids.ts";
import { type Lsn, parseLsn } from "../../base/lsn.ts";
import { type JsonFields } from "../json-fields.ts";
import { readJsonBody, readOptionalJsonBody, streamBody } from "./body.ts";
import { usage } from "./http-errors.ts";
import type { Identity } from "./identity.ts";
import type { Target } from "./router.ts";

/** A JSON value, a text, bytes, or a stream of bytes with headers that describe it. */
export type Answer =
  | { readonly kind: "json"; readonly status: number; readonly value: object | string }
  | {
      readonly kind: "bytes";
      readonly headers: Readonly<Record<string, string>>;
      readonly bytes: Uint8Array;
    }
  | { readonly kind: "text"; readonly contentType: string; readonly text: string }
  | {
      readonly kind: "stream";
      readonly headers: Readonly<Record<string, string>>;
      readonly stream: AsyncIterable<Uint8Array>;
    };

export function json(value: object | string, status = 200): Answer {
  return { kind: "json", status, value };
}

export class ApiRequest {
  private readonly message: IncomingMessage;
  private readonly target: Target;

  /** Who asks. */
  readonly identity: Identity;

  constructor(message: IncomingMessage, target: Target, identity: Identity) {
    this.message = message;
    this.target = target;
    this.identity = identity;
  }

  /** The body as a JSON object; call `end()` on it after the last field. */
  body(): Promise<JsonFields> {
    return readJsonBody(this.message);
  }

  /** The same where there may be none. */
  optionalBody(): Promise<JsonFields | undefined> {
    return readOptionalJsonBody(this.message);
  }

  /** The body as bytes. */
  upload(): AsyncIterable<Uint8Array> {
    return streamBody(this.message);
  }

  /** A variable part of the path. */
  part(name: string): string {
    return this.target.path.get(name) ?? "";
  }

  get tenantId(): TenantId {
    return this.id("tenant", "tenant id") as TenantId;
  }

  get timelineId(): TimelineId {
    return this.id("timeline", "timeline id") as TimelineId;
  }

  get writerEpoch(): WriterEpoch {
    return this.id("epoch", "writer epoch") as WriterEpoch;
  }

  /** Refuses query parameters that the route does not have. */
  expectQuery(...names: string[]): void {
    for (const name of this.target.query.keys()) {
      if (!names.includes(name)) throw usage(`query parameter "${name}" is not known here`, name);
      if (this.target.query.getAll(name).length > 1)
        throw usage(`query parameter "${name}" is given twice`, name);
    }
  }

  query(name: string): string | undefined {
    return this.target.query.get(name) ?? undefined;
  }

  queryLsn(name: string): Lsn | undefined {
    const text = this.query(name);
    if (text === undefined) return undefined;
    const lsn = parseLsn(text);
    if (lsn === undefined)
      throw usage(`query parameter "${name}" must be an LSN such as 0/16E2408, not "${text}"`, name);
    return lsn;
  }

  queryBoolean(name: string): boolean {
    const text = this.query(name) ?? "false";
    if (text === "true" || text === "1") return true;
    if (text === "false" || text === "0") return false;
    throw usage(`query parameter "${name}" must be true or false, not "${text}"`, name);
  }

  queryTimelineId(name: string): TimelineId | undefined {
    const text = this.query(name)?.toLowerCase();
    if (text === undefined) return undefined;
    if (!isId(text)) throw usage(`query parameter "${name}" must have 32 hexadecimal digits`, name);
    return text as TimelineId;
  }

  private id(name: string, what: string): string {
    const text = this.part(name).toLowerCase();
    if (!isId(text))
      throw usage(`"${this.part(name)}" in the path is no ${what}: 32 hexadecimal digits are wanted`, name);
    return text;
  }
}
