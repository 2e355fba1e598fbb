CREATE TABLE links (
    id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    code text NOT NULL UNIQUE,
    target text NOT NULL,
    visits int NOT NULL DEFAULT 0
);

CREATE TABLE visits (
    link_id int NOT NULL REFERENCES links,
    at timestamptz NOT NULL DEFAULT now()
);
