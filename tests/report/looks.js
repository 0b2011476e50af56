// What a test asks of a page that a browser shows.

const rgba = text => {
  const numbers = text.match(/[\d.]+/g).map(Number);
  return [...numbers.slice(0, 3), numbers[3] ?? 1];
};

const luminance = colour => {
  const [r, g, b] = colour.slice(0, 3).map(v => v / 255)
    .map(v => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};

const behind = element => {
  for (let e = element; e; e = e.parentElement) {
    const colour = rgba(getComputedStyle(e).backgroundColor);
    if (colour[3] > 0) return colour;
  }
  return [255, 255, 255, 1];
};

// WCAG 2.2: how many texts there are, and those with less contrast than 4.5, or 3 if they are large.
const contrast = () => {
  const faint = [];
  let seen = 0;
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode.data.trim();
    const element = texts.currentNode.parentElement;
    if (!text || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const ink = rgba(element.closest("svg") ? style.fill : style.color);
    const [light, dark] = [ink, behind(element)].map(luminance).sort((a, b) => b - a);
    const ratio = (light + 0.05) / (dark + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    seen += 1;
    if (ratio < (large ? 3 : 4.5)) faint.push([text, ratio]);
  }
  return [seen, faint];
};

// What goes beyond the window, and what is cut off inside it.
const wide = () => {
  const found = [];
  const width = document.documentElement.clientWidth;
  for (const element of document.querySelectorAll("body *")) {
    const head = element.closest("thead");
    if (head && getComputedStyle(head).position === "absolute") continue; // said, but not shown
    if (element.closest("svg") && element.tagName !== "svg") continue;
    const box = element.getBoundingClientRect();
    const start = element.outerHTML.slice(0, 80);
    if (box.width && (box.right > width + 0.5 || box.left < -0.5)) found.push(start);
    const clips = getComputedStyle(element).overflowX !== "visible";
    if (clips && element.scrollWidth > element.clientWidth + 1) found.push("cut off: " + start);
  }
  return found;
};
