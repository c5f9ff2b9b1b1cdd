// The page of the HTTP API: Swagger UI over the server's own document. It loads from this server alone.
import SwaggerUI from 'swagger-ui-dist/swagger-ui-es-bundle.js';

SwaggerUI({
  url: 'openapi.json',
  dom_id: '#docs',
  deepLinking: true,
  // The key stays in memory: another page of this origin could read what is stored.
  persistAuthorization: false,
  // No badge of an online service.
  validatorUrl: null,
});
