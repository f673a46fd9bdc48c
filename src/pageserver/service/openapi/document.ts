/** The OpenAPI 3.1 document, from the operations and schemas; and a page that shows it to people. */
import { GROUPS, type Operation } from "./operations.ts";
import { PARAMETERS, SCHEMAS, type Schema, schemaRef } from "./schemas.ts";

const JSON_TYPE = "application/json";

export function openApiDocument(version: string): object {
  const paths: Record<string, Record<string, object>> = {};
  for (const [group, operations] of Object.entries(GROUPS)) {
    for (const [key, operation] of Object.entries(operations)) {
      const [method = "", pattern = ""] = key.split(" ");
      const path = pattern.replaceAll(/:([a-z_]+)/g, "{$1}");
      paths[path] = {
        ...paths[path],
        [method.toLowerCase()]: renderOperation(group, key, pattern, operation),
      };
    }
  }
  return {
    openapi: "3.1.0",
    info: {
      title: "Pageserver",
      version,
      description:
        "Branches of a Postgres database at any moment of its past. LSNs are texts X/Y, ids 32 lower-case hexadecimal digits.",
    },
    security: [{ bearer: [] }, { basic: [] }],
    paths,
    components: {
      securitySchemes: {
        bearer: { type: "http", scheme: "bearer" },
        basic: { type: "http", scheme: "basic" },
      },
      schemas: SCHEMAS,
    },
  };
}

function renderOperation(group: string, key: string, pattern: string, operation: Operation): object {
  const { summary, query = {}, status = 200 } = operation;
  const pathParameters = [...pattern.matchAll(/:([a-z_]+)/g)].map(([, name = ""]) => ({
    name,
    in: "path",
    required: true,
    schema: name === "name" ? PARAMETERS.text : PARAMETERS.id,
  }));
  const queryParameters = Object.entries(query).map(([name, schema]) => ({ name, in: "query", schema }));
  const body = requestBody(operation);
  return {
    operationId: operationId(key),
    summary,
    tags: [group],
    ...(OPEN.has(key) ? { security: [] } : {}),
    parameters: [...pathParameters, ...queryParameters],
    ...(body ? { requestBody: body } : {}),
    responses: {
      [status]: {
        description: summary,
        ...(operation.answer === "nothing" ? {} : { content: answerContent(operation) }),
      },
      default: { description: "A failure", content: { [JSON_TYPE]: { schema: schemaRef("Error") } } },
    },
  };
}

/** Operations that nobody needs to be let in for. */
const OPEN: ReadonlySet<string> = new Set([
  "GET /v1/status",
  "GET /v1/openapi.json",
  "GET /swagger.yml",
  "GET /v1/doc",
]);

function operationId(key: string): string {
  return key
    .replaceAll(/[^A-Za-z0-9]+/g, "_")
    .toLowerCase()
    .replaceAll(/^_|_$/g, "");
}

function requestBody({ body, requiredBody = [] }: Operation): object | undefined {
  if (body === undefined) return undefined;
  if (body === "upload") return { required: true, content: { "application/x-tar": { schema: {} } } };
  const schema: Schema = {
    type: "object",
    properties: body,
    ...(requiredBody.length > 0 ? { required: requiredBody } : {}),
  };
  return { required: requiredBody.length > 0, content: { [JSON_TYPE]: { schema } } };
}

function answerContent({ answer }: Operation): object {
  if (answer === "bytes") return { "application/octet-stream": { schema: {} } };
  if (answer === "nothing") return {};
  if (answer === "text") return { "text/plain": { schema: { type: "string" } } };
  if (typeof answer === "string") return { [JSON_TYPE]: { schema: schemaRef(answer) } };
  if ("listOf" in answer) {
    return { [JSON_TYPE]: { schema: { type: "array", items: schemaRef(answer.listOf) } } };
  }
  const line = {
    oneOf: [
      { type: "object", required: ["progress"] },
      { type: "object", required: ["result"], properties: { result: schemaRef(answer.lines) } },
      schemaRef("Error"),
    ],
  };
  return { "application/x-ndjson": { schema: line } };
}

/** A page without scripts. */
export function openApiPage(version: string): string {
  const rows = Object.entries(GROUPS).map(
    ([group, operations]) =>
      `<h2>${group}</h2><table>${Object.entries(operations)
        .map(
          ([key, operation]) =>
            `<tr><td><code>${escapeHtml(key)}</code></td><td>${escapeHtml(operation.summary)}</td>` +
            `<td>${escapeHtml(takes(operation))}</td></tr>`,
        )
        .join("")}</table>`,
  );
  return (
    `<!doctype html><html lang="en"><meta charset="utf-8"><title>Pageserver ${escapeHtml(version)}</title>` +
    `<h1>Pageserver ${escapeHtml(version)}</h1><p>As a document: <a href="/v1/openapi.json">openapi.json</a></p>` +
    `${rows.join("")}</html>\n`
  );
}

/** What a request may have with it, in a line. */
function takes({ query = {}, body = {} }: Operation): string {
  const names = Object.keys(query).join("&");
  const fields = body === "upload" ? "a tar" : Object.keys(body).join(", ");
  return [names === "" ? "" : `?${names}`, fields].filter((text) => text !== "").join(" · ");
}

function escapeHtml(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll('"', "&quot;");
}
