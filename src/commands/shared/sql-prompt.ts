/**
 * The built-in SQL prompt, for machines without psql: a line editor with history, statements over several lines, a few
 * of psql's commands. Reads statements from stdin when that is no terminal.
 */
import { createInterface } from "node:readline";
import { messageOf } from "../../base/errors.ts";
import { formatTable, paint } from "./output.ts";
import { splitSql } from "./sql-split.ts";
import type { SqlResult, SqlSession } from "./sql-session.ts";

const HELP = `\\q  quit        \\l  databases      \\d   tables, views, sequences
\\?  this help   \\dn schemas        \\d NAME  columns of a table
Statements end with a semicolon. Ctrl-C clears the line or cancels the statement.`;

const LIST_DATABASES =
  "SELECT datname AS name, pg_get_userbyid(datdba) AS owner, pg_encoding_to_char(encoding) AS encoding FROM pg_database ORDER BY 1";
const LIST_SCHEMAS =
  "SELECT nspname AS name, pg_get_userbyid(nspowner) AS owner FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' ORDER BY 1";
const LIST_RELATIONS = `SELECT n.nspname AS schema, c.relname AS name,
  CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'v' THEN 'view'
    WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence' WHEN 'f' THEN 'foreign table' END AS type,
  pg_get_userbyid(c.relowner) AS owner
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY 1, 2`;

/** Runs the prompt; returns the exit code: 0, or 3 as psql does when a script failed. */
export async function runSqlPrompt(session: SqlSession, database: string): Promise<number> {
  const interactive = process.stdin.isTTY;
  const lines = createInterface({ input: process.stdin, output: interactive ? process.stdout : undefined });
  let pending = "";
  let busy = false;
  const prompt = (): void => {
    if (!interactive) return;
    lines.setPrompt(pending === "" ? `${database}=# ` : `${database}-# `);
    lines.prompt();
  };
  lines.on("SIGINT", () => {
    if (busy) void session.cancel().catch(() => undefined);
    pending = "";
    process.stdout.write("^C\n");
    prompt();
  });
  if (interactive) process.stdout.write("Built-in prompt (no psql was found). \\? for help, \\q to quit.\n");
  prompt();
  let failed = false;
  for await (const line of lines) {
    const command = pending === "" ? metaCommand(line) : undefined;
    if (command?.kind === "quit") break;
    if (command?.kind === "text") process.stdout.write(`${command.text}\n`);
    const { statements, rest } =
      command === undefined
        ? splitSql(`${pending}${line}\n`)
        : { statements: command.kind === "sql" ? [command.sql] : [], rest: "" };
    pending = rest;
    busy = true;
    for (const statement of statements) {
      if (!(await runAndPrint(session, statement))) failed = true;
    }
    busy = false;
    if (failed && !interactive) break;
    prompt();
  }
  lines.close();
  if (!interactive && !failed && pending.trim() !== "" && !(await runAndPrint(session, pending)))
    failed = true;
  return failed && !interactive ? 3 : 0;
}

async function runAndPrint(session: SqlSession, sql: string): Promise<boolean> {
  try {
    for (const result of await session.run(sql)) process.stdout.write(`${formatResult(result)}\n`);
    return true;
  } catch (error) {
    process.stderr.write(`${paint("red", "ERROR:", process.stderr)}  ${messageOf(error)}\n`);
    return false;
  }
}

/** A result as a table, or the command's tag. */
export function formatResult(result: SqlResult): string {
  if (result.columns.length === 0) return result.tag;
  const table = formatTable(
    result.columns,
    result.rows.map((row) => row.map((value) => value ?? "")),
  );
  return `${table}\n(${result.rows.length} ${result.rows.length === 1 ? "row" : "rows"})\n`;
}

type MetaCommand =
  | { readonly kind: "quit" }
  | { readonly kind: "text"; readonly text: string }
  | { readonly kind: "sql"; readonly sql: string };

function metaCommand(line: string): MetaCommand | undefined {
  const text = line.trim();
  if (text === "exit" || text === "quit") return { kind: "quit" };
  if (!text.startsWith("\\")) return undefined;
  const [name = "", argument] = text.replace(/;$/, "").split(/\s+/, 2);
  switch (name) {
    case "\\q":
      return { kind: "quit" };
    case "\\l":
      return { kind: "sql", sql: LIST_DATABASES };
    case "\\dn":
      return { kind: "sql", sql: LIST_SCHEMAS };
    case "\\d":
    case "\\dt":
      return { kind: "sql", sql: argument === undefined ? LIST_RELATIONS : describeRelation(argument) };
    case "\\?":
      return { kind: "text", text: HELP };
    default:
      return { kind: "text", text: `${name} is not known here; \\? lists what is. psql knows more.` };
  }
}

function describeRelation(name: string): string {
  const literal = `'${name.replaceAll("'", "''")}'`;
  return `SELECT a.attname AS column, format_type(a.atttypid, a.atttypmod) AS type,
  CASE WHEN a.attnotnull THEN 'not null' ELSE '' END AS nullable, pg_get_expr(d.adbin, d.adrelid) AS default
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = ${literal}::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum`;
}
