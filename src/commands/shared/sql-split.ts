/**
 * Where statements end in SQL that is typed line by line. Knows quotes, dollar quotes and comments, as far as it takes
 * to tell a semicolon that ends a statement from any other; Postgres does the rest.
 */

export interface SplitSql {
  /** Complete statements, each with its semicolon. */
  readonly statements: readonly string[];
  /** What has not ended yet. */
  readonly rest: string;
}

export function splitSql(text: string): SplitSql {
  const statements: string[] = [];
  let start = 0;
  let at = 0;
  let depth = 0;
  while (at < text.length) {
    const skipped = skipQuoted(text, at);
    if (skipped === undefined) break;
    if (skipped > at) {
      at = skipped;
      continue;
    }
    const char = text[at];
    if (char === "(") depth++;
    if (char === ")") depth = Math.max(0, depth - 1);
    at++;
    if (char === ";" && depth === 0) {
      statements.push(text.slice(start, at).trim());
      start = at;
    }
  }
  return { statements, rest: text.slice(start).replace(/^\s+/, "") };
}

const DOLLAR_QUOTE = /\$(?:[A-Za-z_\u0080-\uffff][A-Za-z0-9_\u0080-\uffff]*)?\$/y;

/** The position after the quoted text or comment at `at`; `at` itself if there is none; undefined if it does not end. */
function skipQuoted(text: string, at: number): number | undefined {
  const char = text[at];
  if (char === "'" || char === '"') {
    const escapes = char === "'" && /(?:^|[^A-Za-z0-9_])[eE]$/.test(text.slice(Math.max(0, at - 2), at));
    return endOfString(text, at + 1, char, escapes);
  }
  if (char === "-" && text[at + 1] === "-") return after(text.indexOf("\n", at), 1);
  if (char === "/" && text[at + 1] === "*") return endOfComment(text, at + 2);
  if (char === "$" && !/[A-Za-z0-9_]/.test(text[at - 1] ?? "")) {
    DOLLAR_QUOTE.lastIndex = at;
    const tag = DOLLAR_QUOTE.exec(text)?.[0];
    if (tag !== undefined) return after(text.indexOf(tag, at + tag.length), tag.length);
  }
  return at;
}

function after(index: number, length: number): number | undefined {
  return index < 0 ? undefined : index + length;
}

function endOfString(text: string, from: number, quote: string, escapes: boolean): number | undefined {
  for (let i = from; i < text.length; i++) {
    if (escapes && text[i] === "\\") i++;
    else if (text[i] === quote) {
      if (text[i + 1] !== quote) return i + 1;
      i++;
    }
  }
  return undefined;
}

/** Comments nest in SQL. */
function endOfComment(text: string, from: number): number | undefined {
  let depth = 1;
  for (let i = from; i < text.length; i++) {
    if (text[i] === "/" && text[i + 1] === "*") {
      depth++;
      i++;
    } else if (text[i] === "*" && text[i + 1] === "/") {
      depth--;
      i++;
      if (depth === 0) return i + 1;
    }
  }
  return undefined;
}
