// Swagger UI over this server's own document. Models stay folded: a spec's schema names all of torch.
window.SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  defaultModelExpandDepth: 1,
});
