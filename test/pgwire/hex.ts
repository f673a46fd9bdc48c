/** Bytes from hexadecimal digits, with spaces between fields. */
export function unhex(text: string): Buffer {
  return Buffer.from(text.replaceAll(" ", ""), "hex");
}
