-- Run once by the image of PostgreSQL, when its volume is new: the services' role owns the database and has no right beside.
-- psql quotes the password. The superuser keeps none: it is reached inside the container alone.
\getenv password POSTGRES_PASSWORD
CREATE ROLE meshes LOGIN PASSWORD :'password';
ALTER DATABASE meshes OWNER TO meshes;
ALTER ROLE postgres PASSWORD NULL;
