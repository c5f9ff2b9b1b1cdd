// Contrast of letters on a colour, as WCAG 2 computes it, for what is drawn on a canvas.

/** Smallest contrast of readable letters. */
export const READABLE = 4.5;

const channels = (colour) => {
  const digits = colour.replace('#', '');
  const each = digits.length === 3 ? [...digits].map((digit) => digit + digit) : digits.match(/../g);
  return each.map((pair) => Number.parseInt(pair, 16));
};

/** The colour at a share of a scale of colours, as the chart library mixes it. */
export function mixed(scale, share) {
  const place = Math.min(Math.max(share, 0), 1) * (scale.length - 1);
  const low = Math.floor(place);
  const [from, to] = [channels(scale[low]), channels(scale[Math.min(low + 1, scale.length - 1)])];
  const part = from.map((value, at) => Math.round(value + (to[at] - value) * (place - low)));
  return `#${part.map((value) => value.toString(16).padStart(2, '0')).join('')}`;
}

function luminance(colour) {
  const [red, green, blue] = channels(colour).map((value) => {
    const share = value / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

/** The contrast of two colours, 1 to 21. */
export function contrast(one, other) {
  const [light, dark] = [luminance(one), luminance(other)].sort((a, b) => b - a);
  return (light + 0.05) / (dark + 0.05);
}

/** The first of the inks that is readable on a ground; black or white, one of which always is, if none is. */
export function inkOn(ground, inks) {
  const found = inks.find((ink) => contrast(ink, ground) >= READABLE);
  return found ?? (contrast('#000000', ground) >= READABLE ? '#000000' : '#ffffff');
}
