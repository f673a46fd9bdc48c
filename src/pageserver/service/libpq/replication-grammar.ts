/**
 * The words of replication commands: bare words, "quoted names", 'texts', LSNs, brackets and commas.
 * Source: PostgreSQL 17 documentation, "Streaming Replication Protocol"; older forms of the options are taken too.
 */
import { type Lsn, parseLsn } from "../../../base/lsn.ts";
import { usage } from "../http-errors.ts";

const TOKEN = /\s*(?:"((?:[^"]|"")*)"|'((?:[^']|'')*)'|([(),])|([^\s"'(),;]+))/y;
const TOKENS_MAX = 200;

interface Token {
  readonly text: string;
  readonly kind: "name" | "text" | "sign" | "word";
}

export class ReplicationWords {
  private readonly tokens: readonly Token[];
  private at = 0;

  /** Throws `usage` for a quote without an end. */
  constructor(text: string) {
    this.tokens = tokenize(text.replace(/[\s;]+$/, ""));
  }

  get atEnd(): boolean {
    return this.at === this.tokens.length;
  }

  /** Takes these bare words, in any case, if they come next. */
  take(...words: readonly string[]): boolean {
    const found = words.every((word, index) => {
      const token = this.tokens[this.at + index];
      return token?.kind === "word" && token.text.toUpperCase() === word;
    });
    if (found) this.at += words.length;
    return found;
  }

  sign(sign: "(" | ")" | ","): boolean {
    const token = this.tokens[this.at];
    const found = token?.kind === "sign" && token.text === sign;
    if (found) this.at++;
    return found;
  }

  /** A name: bare, or in double quotes. */
  name(what: string): string {
    const token = this.tokens[this.at++];
    if (token?.kind === "name") return token.text;
    if (token?.kind === "word") return token.text.toLowerCase();
    throw usage(`${what} is missing`);
  }

  lsn(): Lsn {
    const token = this.tokens[this.at++];
    const lsn = token?.kind === "word" ? parseLsn(token.text) : undefined;
    if (lsn === undefined) throw usage(`an LSN such as 0/16E2408 is wanted, not "${token?.text ?? ""}"`);
    return lsn;
  }

  number(what: string): number {
    const text = this.tokens[this.at++]?.text ?? "";
    if (!/^\d{1,10}$/.test(text)) throw usage(`${what} is a number, not "${text.slice(0, 40)}"`);
    return Number(text);
  }

  /**
   * Options with their values, if any (`true` where none is given): `(LABEL 'x', WAL)`, or without brackets and commas.
   * Names are in upper case.
   */
  options(valued: ReadonlySet<string>): Map<string, string> {
    const options = new Map<string, string>();
    const inBrackets = this.sign("(");
    while (!this.atEnd && !(inBrackets && this.sign(")"))) {
      const name = this.name("the name of an option").toUpperCase();
      const next = this.tokens[this.at];
      const hasValue =
        next !== undefined &&
        next.kind !== "sign" &&
        (inBrackets || next.kind === "text" || valued.has(name));
      options.set(name, hasValue ? next.text : "true");
      if (hasValue) this.at++;
      if (inBrackets) this.sign(",");
    }
    return options;
  }

  /** Passes over what stands in brackets. */
  skipBrackets(): void {
    if (!this.sign("(")) throw usage("a bracket is missing");
    while (!this.sign(")")) {
      if (this.atEnd) throw usage("a bracket is not closed");
      this.at++;
    }
  }

  end(): void {
    const token = this.tokens[this.at];
    if (token) throw usage(`"${token.text.slice(0, 40)}" is too much in a replication command`);
  }
}

function tokenize(text: string): Token[] {
  const tokens: Token[] = [];
  TOKEN.lastIndex = 0;
  while (TOKEN.lastIndex < text.length) {
    const at = TOKEN.lastIndex;
    const match = TOKEN.exec(text);
    if (!match) throw usage(`"${text.slice(at, at + 40)}" is no part of a replication command`);
    const [, name, quoted, sign, word] = match;
    if (name !== undefined) tokens.push({ kind: "name", text: name.replaceAll('""', '"') });
    else if (quoted !== undefined) tokens.push({ kind: "text", text: quoted.replaceAll("''", "'") });
    else if (sign !== undefined) tokens.push({ kind: "sign", text: sign });
    else tokens.push({ kind: "word", text: word ?? "" });
    if (tokens.length > TOKENS_MAX) throw usage("the replication command is too long");
  }
  return tokens;
}
