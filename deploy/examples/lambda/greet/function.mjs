// Owns a function for AWS Lambda, without a word of pilotlight.
const started = new Date().toISOString();

export async function handler({ name = "world" }) {
  console.log(`greeting ${name}`);
  return { greeting: `Hello, ${name}!`, started };
}
