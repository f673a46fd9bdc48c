/** Requests to a real pageserver whose answers must be as its own OpenAPI document says. */
import assert from "node:assert/strict";
import { Ajv2020 } from "ajv/dist/2020.js";
import { OPERATIONS } from "../../src/pageserver/service/openapi/operations.ts";
import { httpOnce } from "../support/http-once.ts";
import { TENANT, TOKEN } from "./harness.ts";

export interface Ask {
  readonly path?: Readonly<Record<string, string>>;
  readonly query?: Readonly<Record<string, string>>;
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
}

export interface Told {
  readonly status: number;
  readonly headers: Headers;
  readonly bytes: Uint8Array;
  /** Undefined for what is no JSON. */
  readonly json: unknown;
}

type Fields = Readonly<Record<string, unknown>>;

export function isFields(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The value as an object. */
export function fieldsOf(value: unknown): Fields {
  assert.ok(isFields(value), JSON.stringify(value));
  return value;
}

export function listOf(value: unknown): Fields[] {
  assert.ok(Array.isArray(value), JSON.stringify(value));
  return value.map(fieldsOf);
}

export class ApiLab {
  /** Operations that have been asked with success. */
  readonly asked = new Set<string>();
  private readonly url: string;
  private readonly document: Fields;
  private readonly ajv = new Ajv2020({ strict: false, allErrors: true });

  private constructor(url: string, document: Fields) {
    this.url = url;
    this.document = document;
    this.ajv.addFormat(
      "date-time",
      (text) => /^\d{4}-.*(Z|[+-]\d\d:\d\d)$/.test(text) && !Number.isNaN(Date.parse(text)),
    );
    this.ajv.addSchema(document, "api");
  }

  /** `url` of a server that is ready. */
  static async of(url: string): Promise<ApiLab> {
    const document: unknown = await (await fetch(`${url}/v1/openapi.json`)).json();
    return new ApiLab(url, fieldsOf(document));
  }

  /** What must work; `route` is `METHOD /pattern`. */
  async ok(route: string, ask: Ask = {}): Promise<unknown> {
    const told = await this.send(route, ask);
    const operation = OPERATIONS[route];
    assert.ok(operation, `${route} is in the document`);
    assert.equal(
      told.status,
      operation.status ?? 200,
      `${route}: ${Buffer.from(told.bytes).toString().slice(0, 1000)}`,
    );
    this.asked.add(route);
    return told.json ?? told.bytes;
  }

  /** What is refused: the error's message. */
  async refused(route: string, status: number, ask: Ask = {}): Promise<string> {
    const told = await this.send(route, ask);
    assert.equal(told.status, status, `${route}: ${Buffer.from(told.bytes).toString().slice(0, 1000)}`);
    const { msg } = fieldsOf(told.json);
    return String(msg);
  }

  async send(route: string, { path = {}, query = {}, body, headers = {} }: Ask = {}): Promise<Told> {
    const [method = "", pattern = ""] = route.split(" ");
    const target = pattern.replaceAll(/:([a-z_]+)/g, (_, name: string) =>
      encodeURIComponent(path[name] ?? (name === "tenant" ? TENANT : "")),
    );
    const search = new URLSearchParams(query).toString();
    const sent = body === undefined || body instanceof Uint8Array ? body : JSON.stringify(body);
    const answer = await httpOnce(`${this.url}${target}${search === "" ? "" : `?${search}`}`, {
      method,
      headers: { authorization: `Bearer ${TOKEN}`, ...headers },
      body: sent,
    });
    // Of its own: some are looked at with views that begin at its start.
    const bytes = new Uint8Array(answer.bytes);
    const type = (answer.headers.get("content-type") ?? "").split(";")[0] ?? "";
    return { ...answer, bytes, json: this.check(route, answer.status, type, bytes) };
  }

  /** Throws for an answer that the document does not have; its JSON, or the result of the last of its lines. */
  private check(route: string, status: number, type: string, bytes: Uint8Array): unknown {
    const content = this.contentOf(route, status);
    if (content === undefined) {
      assert.equal(bytes.length, 0, `${route}, status ${status}: nothing is expected`);
      return undefined;
    }
    const media = Object.keys(content);
    const isBytes = media.includes("application/octet-stream") || media.includes("text/plain");
    if (isBytes) return undefined;
    assert.ok(media.includes(type), `${route}, status ${status}: ${type} is not among ${media.join(", ")}`);
    const text = Buffer.from(bytes).toString("utf8");
    const values: unknown[] =
      type === "application/x-ndjson"
        ? text
            .trimEnd()
            .split("\n")
            .map((line): unknown => JSON.parse(line))
        : [JSON.parse(text)];
    const schema = fieldsOf(fieldsOf(content[type])["schema"]);
    const validate = this.ajv.compile(resolved(schema));
    for (const value of values) {
      assert.ok(
        validate(value),
        `${route}: ${this.ajv.errorsText(validate.errors)} in ${JSON.stringify(value).slice(0, 2000)}`,
      );
    }
    const last = values.at(-1);
    return type === "application/x-ndjson" ? fieldsOf(last)["result"] : last;
  }

  /** Undefined where the answer is nothing. */
  private contentOf(route: string, status: number): Fields | undefined {
    const [method = "", pattern = ""] = route.split(" ");
    const path = pattern.replaceAll(/:([a-z_]+)/g, "{$1}");
    const operation = fieldsOf(fieldsOf(fieldsOf(this.document["paths"])[path])[method.toLowerCase()]);
    const responses = fieldsOf(operation["responses"]);
    const { content } = fieldsOf(responses[String(status)] ?? responses["default"]);
    return content === undefined ? undefined : fieldsOf(content);
  }
}

/** With references into the document as a whole. */
function resolved(schema: Fields): Fields {
  const text = JSON.stringify(schema).replaceAll('"#/components', '"api#/components');
  return fieldsOf(JSON.parse(text));
}
