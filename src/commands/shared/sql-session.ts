/** A connection for the built-in SQL prompt: runs statements, gives values as Postgres writes them. */
import { Client } from "pg";
import { ErrorCode, NeonError, messageOf, systemCode } from "../../base/errors.ts";

export interface SqlResult {
  /** `SELECT`, `INSERT`… */
  readonly command: string;
  /** What Postgres says at the end of the statement, as psql prints it: `CREATE TABLE`, `INSERT 0 2`. */
  readonly tag: string;
  readonly rowCount: number | null;
  readonly columns: readonly string[];
  readonly rows: readonly (readonly (string | null)[])[];
}

export class SqlSession implements AsyncDisposable {
  private readonly client: Client;
  private readonly uri: string;

  private constructor(client: Client, uri: string) {
    this.client = client;
    this.uri = uri;
  }

  /** Throws `postgres` when the server cannot be reached or refuses. */
  static async connect(uri: string, onNotice: (text: string) => void): Promise<SqlSession> {
    const types = { getTypeParser: () => (text: string) => text };
    const client = new Client({ connectionString: uri, types, application_name: "neon pg psql" });
    client.on("notice", (notice) => onNotice(`${notice.severity ?? "NOTICE"}:  ${notice.message ?? ""}`));
    // A broken connection is reported by the next query.
    client.on("error", () => undefined);
    try {
      await client.connect();
    } catch (error) {
      throw new NeonError(ErrorCode.Postgres, `cannot connect to ${uri}: ${messageOf(error)}`, {
        hint: systemCode(error) === "ECONNREFUSED" ? "See `neon pg list` for whether it runs." : undefined,
        cause: error,
      });
    }
    return new SqlSession(client, uri);
  }

  /** Runs text with any number of statements. Throws `postgres` with Postgres' own message. */
  async run(sql: string): Promise<SqlResult[]> {
    const tags: string[] = [];
    // The library keeps only the first word of a tag.
    const onComplete = (message: { text?: string }): unknown => tags.push(message.text ?? "");
    const { connection } = this.client;
    connection.on("commandComplete", onComplete);
    try {
      const answer: unknown = await this.client.query({ text: sql, rowMode: "array" });
      const results: unknown[] = Array.isArray(answer) ? answer : [answer];
      return results.map((result, index) => resultOf(result, tags[index]));
    } catch (error) {
      throw sqlError(error, sql);
    } finally {
      connection.off("commandComplete", onComplete);
    }
  }

  /** Asks Postgres to give up the statement that is running. */
  async cancel(): Promise<void> {
    const pid: unknown = Reflect.get(this.client, "processID");
    if (typeof pid !== "number") return;
    const helper = new Client({ connectionString: this.uri });
    helper.on("error", () => undefined);
    await helper.connect();
    try {
      await helper.query("SELECT pg_cancel_backend($1)", [pid]);
    } finally {
      await helper.end();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.client.end().catch(() => undefined);
  }
}

function resultOf(value: unknown, tag: string | undefined): SqlResult {
  const { command, rowCount, fields, rows } = value as {
    command?: string | null;
    rowCount?: number | null;
    fields?: readonly { name: string }[];
    rows?: readonly (readonly (string | null)[])[];
  };
  return {
    command: command ?? "",
    tag: tag ?? command ?? "",
    rowCount: rowCount ?? null,
    columns: (fields ?? []).map((field) => field.name),
    rows: rows ?? [],
  };
}

function sqlError(error: unknown, sql: string): NeonError {
  const { severity, code, detail, hint, position } = error as Record<string, unknown>;
  if (typeof severity !== "string") {
    return new NeonError(ErrorCode.Postgres, `the connection broke: ${messageOf(error)}`, {
      hint: "See whether the compute still runs with `neon pg list`.",
      cause: error,
    });
  }
  const lines = [messageOf(error)];
  const offset = Number(position) - 1;
  if (offset >= 0) lines.push(markPosition(sql, offset));
  if (typeof detail === "string") lines.push(`DETAIL:  ${detail}`);
  return new NeonError(ErrorCode.Postgres, lines.join("\n"), {
    hint: typeof hint === "string" ? hint : undefined,
    data: { sqlstate: typeof code === "string" ? code : null },
    cause: error,
  });
}

/** The line of an error with a mark under its place. */
function markPosition(sql: string, offset: number): string {
  const start = sql.lastIndexOf("\n", offset - 1) + 1;
  const end = sql.indexOf("\n", offset);
  const lineNumber = sql.slice(0, start).split("\n").length;
  const prefix = `LINE ${lineNumber}: `;
  const line = sql.slice(start, end < 0 ? sql.length : end);
  return `${prefix}${line}\n${" ".repeat(prefix.length + offset - start)}^`;
}
