// Elements of the page. Text is only ever set as a property, never as HTML.

/**
 * An element with properties, attributes (names with "-", and role) and children.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, unknown>} properties
 * @param {...HTMLElement} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function element(tag, properties = {}, ...children) {
  const created = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") created.setAttribute(name, String(value));
    else Object.assign(created, { [name]: value });
  }
  created.append(...children);
  return created;
}

/**
 * @param {string} text
 * @param {() => void} onClick
 * @param {Record<string, unknown>} properties
 */
export function textButton(text, onClick, properties = {}) {
  const button = element("button", {
    type: "button",
    className: "msd-button",
    textContent: text,
    ...properties,
  });
  button.addEventListener("click", onClick);
  return button;
}
