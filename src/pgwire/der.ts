/**
 * Writing ASN.1 in DER, as far as certificates need it: every value is a tag, a length and content, and values nest.
 * Source: ITU-T X.690.
 */
import { assert } from "../base/errors.ts";

const Tag = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  objectIdentifier: 0x06,
  utf8String: 0x0c,
  utcTime: 0x17,
  generalizedTime: 0x18,
  sequence: 0x30,
  set: 0x31,
} as const;

/** Tag, length and content. */
export function derValue(tag: number, content: Uint8Array): Uint8Array {
  return Buffer.concat([Uint8Array.of(tag), length(content.length), content]);
}

export function derSequence(...parts: Uint8Array[]): Uint8Array {
  return derValue(Tag.sequence, Buffer.concat(parts));
}

export function derSet(...parts: Uint8Array[]): Uint8Array {
  return derValue(Tag.set, Buffer.concat(parts));
}

/** A non-negative integer from its bytes, most significant first. */
export function derInteger(bytes: Uint8Array): Uint8Array {
  let start = 0;
  while (start < bytes.length - 1 && bytes[start] === 0) start += 1;
  const digits = bytes.subarray(start);
  // A set high bit would make it negative.
  const padded = ((digits[0] ?? 0) & 0x80) === 0 ? digits : Buffer.concat([Uint8Array.of(0), digits]);
  return derValue(Tag.integer, padded.length === 0 ? Uint8Array.of(0) : padded);
}

export function derBoolean(value: boolean): Uint8Array {
  return derValue(Tag.boolean, Uint8Array.of(value ? 0xff : 0));
}

/** A bit string of whole bytes. */
export function derBitString(bytes: Uint8Array, unusedBits = 0): Uint8Array {
  return derValue(Tag.bitString, Buffer.concat([Uint8Array.of(unusedBits), bytes]));
}

export function derOctetString(bytes: Uint8Array): Uint8Array {
  return derValue(Tag.octetString, bytes);
}

export function derUtf8String(text: string): Uint8Array {
  return derValue(Tag.utf8String, Buffer.from(text, "utf8"));
}

/** An object identifier such as `1.2.840.10045.4.3.2`. */
export function derObjectIdentifier(dotted: string): Uint8Array {
  const [first = 0, second = 0, ...rest] = dotted.split(".").map(Number);
  const bytes: number[] = [];
  for (const arc of [first * 40 + second, ...rest]) {
    assert(Number.isSafeInteger(arc) && arc >= 0, `${dotted} is an object identifier`);
    const septets = [arc % 128];
    for (let left = Math.floor(arc / 128); left > 0; left = Math.floor(left / 128)) {
      septets.unshift((left % 128) | 0x80);
    }
    bytes.push(...septets);
  }
  return derValue(Tag.objectIdentifier, Uint8Array.from(bytes));
}

/** A time to the second: UTCTime up to 2049, GeneralizedTime from 2050 on, as RFC 5280 wants it. */
export function derTime(unixMs: number): Uint8Array {
  const digits = new Date(unixMs).toISOString().replaceAll(/[-:T]/g, "").slice(0, 14);
  const late = digits >= "2050";
  return derValue(
    late ? Tag.generalizedTime : Tag.utcTime,
    Buffer.from(`${late ? digits : digits.slice(2)}Z`, "latin1"),
  );
}

/** A value under a context-specific tag: constructed around others, or primitive. */
export function derTagged(number: number, content: Uint8Array, constructed: boolean): Uint8Array {
  return derValue(0x80 | (constructed ? 0x20 : 0) | number, content);
}

function length(count: number): Uint8Array {
  if (count < 0x80) return Uint8Array.of(count);
  const bytes: number[] = [];
  for (let left = count; left > 0; left = Math.floor(left / 256)) bytes.unshift(left % 256);
  return Uint8Array.of(0x80 | bytes.length, ...bytes);
}
