/** Which route a request means. Patterns are paths whose `:name` parts match any one part. */
import { ErrorCode } from "../../base/errors.ts";
import { HttpError, usage } from "./http-errors.ts";

export type Method = "GET" | "POST" | "PUT" | "PATCH" | "DELETE";

/**
 * Who may use a route: `tenant`, whoever may work with the tenant in its path; `server`, whoever may do everything;
 * `filtered`, everybody who is let in, the route itself looks at the rights; `open`, everybody.
 */
export type Access = "tenant" | "server" | "filtered" | "open";

/** The variable parts of a path, decoded, and the query. */
export interface Target {
  readonly path: ReadonlyMap<string, string>;
  readonly query: URLSearchParams;
}

interface Route<H> {
  readonly method: Method;
  readonly parts: readonly string[];
  readonly handler: H;
  readonly access: Access;
}

export interface Found<H> {
  readonly handler: H;
  readonly target: Target;
  readonly pattern: string;
  readonly access: Access;
}

/** Longest path with query that is looked at. */
const URL_LENGTH_MAX = 8192;

export class Router<H> {
  private readonly routes: Route<H>[] = [];

  /** Routes with a tenant in their path are for those who may work with it, others for those who may do everything. */
  add(method: Method, pattern: string, handler: H, access?: Access): this {
    const parts = pattern.split("/");
    const usual = parts.includes(":tenant") ? "tenant" : "server";
    this.routes.push({ method, parts, handler, access: access ?? usual });
    return this;
  }

  /** Method and pattern of each route. */
  list(): { method: Method; pattern: string; access: Access }[] {
    return this.routes.map(({ method, parts, access }) => ({ method, pattern: parts.join("/"), access }));
  }

  /** Whether a request is one that nobody needs to be let in for. */
  isOpen(method: string | undefined, url: string): boolean {
    const [path = ""] = url.split("?", 1);
    if (path.length > URL_LENGTH_MAX) return false;
    const parts = path.split("/");
    return this.routes.some(
      (route) => route.access === "open" && route.method === method && matches(route.parts, parts),
    );
  }

  /** Throws `not_found` for an unknown path and status 405 for a method that the path does not have. */
  find(method: string | undefined, url: string): Found<H> {
    if (url.length > URL_LENGTH_MAX) throw new HttpError(414, ErrorCode.Usage, "the path is too long");
    const mark = url.indexOf("?");
    const path = mark < 0 ? url : url.slice(0, mark);
    const parts = path.split("/");
    const routes = this.meant(parts);
    const route = routes.find((one) => one.method === method);
    if (route) {
      const query = new URLSearchParams(mark < 0 ? "" : url.slice(mark + 1));
      const target = { path: variables(route.parts, parts), query };
      const { handler, access } = route;
      return { handler, target, pattern: route.parts.join("/"), access };
    }
    if (routes.length > 0) {
      const methods = routes.map((one) => one.method).join(", ");
      throw new HttpError(405, ErrorCode.Usage, `${path} takes ${methods}, not ${String(method)}`);
    }
    throw new HttpError(404, ErrorCode.NotFound, `the pageserver has no ${String(method)} ${path}`, {
      hint: "/v1/doc lists all there is. If it was neon that asked, it and the pageserver are of different versions.",
    });
  }

  /** Routes of a path: where a pattern names a part and another one has a variable there, the name is meant. */
  private meant(parts: readonly string[]): Route<H>[] {
    const found = this.routes.filter((route) => matches(route.parts, parts));
    const fewest = Math.min(...found.map(variableCount));
    return found.filter((route) => variableCount(route) === fewest);
  }
}

function matches(pattern: readonly string[], parts: readonly string[]): boolean {
  return (
    pattern.length === parts.length &&
    pattern.every((part, index) => (part.startsWith(":") ? parts[index] !== "" : part === parts[index]))
  );
}

function variableCount({ parts }: { readonly parts: readonly string[] }): number {
  return parts.filter((part) => part.startsWith(":")).length;
}

function variables(pattern: readonly string[], parts: readonly string[]): Map<string, string> {
  const found = new Map<string, string>();
  for (const [index, part] of pattern.entries()) {
    if (part.startsWith(":")) found.set(part.slice(1), decode(parts[index] ?? ""));
  }
  return found;
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw usage(`"${part}" in the path is not well encoded`);
  }
}
